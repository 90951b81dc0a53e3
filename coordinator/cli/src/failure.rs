//! What went wrong, as a person and as a program read it, and the exit code that goes with it.

use std::io::Write;
use std::process::ExitCode;

use handfast_client::{Error, RequestId, TransactionId};
use serde_json::{Map, Value, json};

use crate::options::OutputFormat;
use crate::output::{shown, word};

/// The exit code of usage errors.
pub const USAGE: u8 = 2;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The command line, the environment or the configuration file is wrong.
    Usage(String),
    /// What was asked for is not there.
    NotFound(String),
    /// The client library's error.
    Client(Box<Error>),
    /// Anything else.
    Failed(String),
    /// Stdout could not be written.
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(Box::new(error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(message) | Self::NotFound(message) | Self::Failed(message) => {
                f.write_str(message)
            }
            Self::Client(error) => write!(f, "{error}"),
            Self::Output(error) => write!(f, "stdout could not be written: {error}"),
        }
    }
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        self.class().1
    }

    /// A word for programs, and the exit code.
    fn class(&self) -> (&'static str, u8) {
        let error = match self {
            Self::Usage(_) => return ("usage", USAGE),
            Self::NotFound(_) => return ("not_found", 3),
            Self::Failed(_) | Self::Output(_) => return ("failed", 1),
            Self::Client(error) => error.as_ref(),
        };
        match error {
            Error::Aborted { .. } => ("aborted", 1),
            Error::WrongState { .. } => ("wrong_state", 1),
            Error::RequestIdReused { .. } => ("request_id_reused", 1),
            Error::NotOwner { .. } => ("not_owner", 1),
            Error::Unsupported { .. } => ("unsupported", 1),
            Error::InvalidRequest { .. } => ("invalid_request", USAGE),
            Error::InvalidEndpoint { .. } => ("invalid_endpoint", USAGE),
            Error::NotFound { .. } => ("not_found", 3),
            Error::UnknownParticipant { .. } => ("unknown_participant", 3),
            Error::Unavailable { .. } => ("unavailable", 4),
            Error::Overloaded { .. } => ("overloaded", 4),
            Error::OutcomeUnknown { .. } => ("outcome_unknown", 5),
            Error::OutcomeExpired { .. } => ("outcome_expired", 5),
            Error::WorkUnknown { .. } => ("work_unknown", 5),
            _ => ("failed", 1),
        }
    }

    /// What to do about it.
    fn hint(&self) -> Option<String> {
        let Self::Client(error) = self else {
            return None;
        };
        Some(match error.as_ref() {
            Error::Aborted { .. } => "nothing was changed at any participant".into(),
            Error::OutcomeUnknown { transaction_id: Some(id), .. } => {
                format!("it may have committed; ask with: handfast txn show --wait {id}")
            }
            Error::OutcomeUnknown {
                transaction_id: None, request_id: Some(request_id), ..
            } => {
                let request_id = quoted(request_id);
                format!(
                    "it may have committed; run the same command again with --request-id {request_id} \
                     (the work is never done twice), or ask with: handfast txn show --wait --request-id {request_id}"
                )
            }
            Error::WorkUnknown { transaction_id, .. } => format!(
                "the transaction is still open; do not repeat the work in it: handfast txn abort {transaction_id}"
            ),
            Error::Unavailable { .. } => {
                "nothing was done; is a server running there? --coordinator URL chooses another"
                    .into()
            }
            Error::Overloaded { .. } => "nothing was done; try again later".into(),
            Error::UnknownParticipant { .. } => {
                "those that are registered: handfast participants".into()
            }
            Error::NotFound { .. } => "those that are known: handfast txn list".into(),
            Error::RequestIdReused { .. } => {
                "choose another --request-id, or repeat the first request as it was".into()
            }
            _ => return None,
        })
    }

    /// Tells stderr, and gives the exit code.
    pub fn report(&self, format: OutputFormat) -> ExitCode {
        let text = match format {
            OutputFormat::Table => match self.hint() {
                Some(hint) => format!("handfast: {}\n{hint}", lines(&self.to_string())),
                None => format!("handfast: {}", lines(&self.to_string())),
            },
            OutputFormat::Json => json!({ "error": self.fields() }).to_string(),
        };
        // Nobody is left to tell when stderr is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
        ExitCode::from(self.code())
    }

    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let (kind, code) = self.class();
        fields.insert("kind".into(), kind.into());
        fields.insert("exit_code".into(), code.into());
        fields.insert("message".into(), self.to_string().into());
        if let Some(hint) = self.hint() {
            fields.insert("hint".into(), hint.into());
        }
        let Self::Client(error) = self else {
            return fields;
        };
        let (id, request_id, participant) = names(error);
        if let Some(id) = id {
            fields.insert("transaction_id".into(), id.to_string().into());
        }
        if let Some(request_id) = request_id {
            fields.insert("request_id".into(), request_id.to_string().into());
        }
        if let Some(participant) = participant {
            fields.insert("participant".into(), participant.into());
        }
        if let Error::Aborted { cause, .. } = error.as_ref() {
            fields.insert("cause".into(), word(cause.as_str_name(), "ABORT_CAUSE_").into());
        }
        fields
    }
}

/// What an error names.
fn names(error: &Error) -> (Option<TransactionId>, Option<&RequestId>, Option<&str>) {
    match error {
        Error::Aborted { transaction_id, participant, .. } => {
            (Some(*transaction_id), None, participant.as_deref())
        }
        Error::OutcomeUnknown { transaction_id, request_id, .. }
        | Error::OutcomeExpired { transaction_id, request_id } => {
            (*transaction_id, request_id.as_ref(), None)
        }
        Error::WorkUnknown { transaction_id, participant, .. } => {
            (Some(*transaction_id), None, Some(participant))
        }
        Error::UnknownParticipant { participant, .. } => (None, None, participant.as_deref()),
        _ => (None, None, None),
    }
}

/// A message that others may have written, without control characters but with its lines.
fn lines(message: &str) -> String {
    message.lines().map(shown).collect::<Vec<_>>().join("\n")
}

/// A request_id as a shell reads it.
fn quoted(request_id: &RequestId) -> String {
    let text = request_id.as_str();
    match text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/@".contains(&byte)) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use handfast_client::Cause;

    use super::*;

    fn id() -> TransactionId {
        "0007-02-0000000012-00000000000004d2".parse().expect("an id")
    }

    #[test]
    fn an_unknown_outcome_is_never_an_ordinary_failure() {
        let unknown = Failure::from(Error::OutcomeUnknown {
            transaction_id: None,
            request_id: "it's".parse().ok(),
            source: Cause::Deadline(Duration::from_secs(1)),
        });
        assert_eq!(unknown.code(), 5);
        assert!(unknown.hint().expect("a hint").contains(r"--request-id 'it'\''s'"));
        assert_eq!(unknown.fields()["request_id"], "it's");
        let expired = Error::OutcomeExpired { transaction_id: Some(id()), request_id: None };
        assert_eq!(Failure::from(expired).code(), 5);
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        let failure = Failure::from(Error::WrongState { message: "\u{1b}[2Jgone".into() });
        assert!(!lines(&failure.to_string()).contains('\u{1b}'));
    }
}
