//! `handfast in-doubt`: what participants cannot end by themselves, asked of themselves. It works when no
//! coordinator is there, which is when it is wanted.

use std::time::Duration;

use handfast_client::v1::{self, participant_service_client::ParticipantServiceClient};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::commands::connect;
use crate::config::Settings;
use crate::failure::Failure;
use crate::options::ParticipantAt;
use crate::output::{Output, shown, word};

/// The largest list that is taken, in bytes.
const LIST_BYTES_MAX: usize = 256 << 20;

/// What one participant has said.
type Listed = Result<Vec<v1::InDoubtBranch>, String>;

/// Asks these participants, or those that the coordinator knows.
pub async fn run(
    asked: Vec<ParticipantAt>,
    settings: &Settings,
    output: &mut Output,
) -> Result<(), Failure> {
    let asked = match asked.is_empty() {
        true => {
            let found = connect(settings).await?.participants().await?;
            let at = found.into_iter().map(|found| ParticipantAt {
                participant: found.participant,
                endpoint: found.endpoint,
            });
            at.collect()
        }
        false => asked,
    };
    let mut asking: JoinSet<(usize, Listed)> = JoinSet::new();
    for (index, at) in asked.iter().cloned().enumerate() {
        let patience = settings.timeout.value;
        asking.spawn(async move {
            let listed = tokio::time::timeout(patience, list(at, patience)).await;
            (index, listed.unwrap_or_else(|_| Err("it has not answered in time".to_owned())))
        });
    }
    let mut answers: Vec<(usize, Listed)> = asking.join_all().await;
    answers.sort_unstable_by_key(|(index, _)| *index);
    let answers: Vec<_> = asked.iter().zip(answers).map(|(at, (_, listed))| (at, listed)).collect();
    match output.is_json() {
        true => output
            .json(&json!({ "participants": answers.iter().map(json_of).collect::<Vec<_>>() }))?,
        false => table(&answers, output)?,
    }
    let failed = |(at, listed): &(&ParticipantAt, Listed)| match listed {
        Ok(_) => None,
        Err(error) => {
            Some(format!("{} ({}): {error}", shown(&at.participant), shown(&at.endpoint)))
        }
    };
    let silent: Vec<_> = answers.iter().filter_map(failed).collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "what these have in doubt is not known: {}",
            silent.join("; ")
        ))),
    }
}

async fn list(at: ParticipantAt, patience: Duration) -> Listed {
    let endpoint = Endpoint::from_shared(at.endpoint).map_err(|error| error.to_string())?;
    let connected = endpoint.connect_timeout(patience.min(Duration::from_secs(5))).connect().await;
    let channel = connected.map_err(|_| "nobody answers there".to_owned())?;
    let mut client =
        ParticipantServiceClient::new(channel).max_decoding_message_size(LIST_BYTES_MAX);
    let request =
        v1::ListInDoubtRequest { transaction_id: String::new(), participant: at.participant };
    let listed = client.list_in_doubt(request).await;
    listed.map(|listed| listed.into_inner().branches).map_err(|status| shown(status.message()))
}

fn table(answers: &[(&ParticipantAt, Listed)], output: &mut Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (at, listed) in answers {
        for branch in listed.iter().flatten() {
            rows.push([
                shown(&at.participant),
                shown(&branch.transaction_id),
                branch.since.as_ref().map(ToString::to_string).unwrap_or_default(),
                standing(branch),
                branch.site.as_ref().map(ballot).unwrap_or_default(),
                waits_for(branch),
            ]);
        }
    }
    if rows.is_empty() {
        let who = answers.iter().filter(|(_, listed)| listed.is_ok()).count();
        return output
            .line(&format!("nothing is in doubt at the participants that answered ({who})"));
    }
    output.table(["PARTICIPANT", "TRANSACTION", "SINCE", "STANDS", "BALLOT", "WAITS FOR"], rows)
}

fn standing(branch: &v1::InDoubtBranch) -> String {
    match &branch.site {
        Some(site) => word(site.standing().as_str_name(), "SITE_STANDING_"),
        None if branch.one_phase_committed => "committed, to be told to forget it".to_owned(),
        None => "prepared".to_owned(),
    }
}

fn ballot(site: &v1::SiteStatus) -> String {
    format!("{}, led by {}", shown(&site.promised), shown(&site.leader))
}

fn waits_for(branch: &v1::InDoubtBranch) -> String {
    let missing = branch.site.as_ref().filter(|site| !site.missing.is_empty()).map(|site| {
        let names: Vec<_> = site.missing.iter().map(|name| shown(name)).collect();
        format!("{} of: {}", site.wanted, names.join(", "))
    });
    missing.unwrap_or_else(|| shown(&branch.waiting_for))
}

fn json_of((at, listed): &(&ParticipantAt, Listed)) -> Value {
    let branch = |branch: &v1::InDoubtBranch| {
        json!({
            "transaction_id": branch.transaction_id,
            "since": branch.since.as_ref().map(ToString::to_string),
            "one_phase_committed": branch.one_phase_committed,
            "request_id": branch.request_id,
            "waiting_for": branch.waiting_for,
            "site": branch.site.as_ref().map(super::txn::site_json),
        })
    };
    json!({
        "participant": at.participant,
        "endpoint": at.endpoint,
        "branches": listed.as_ref().ok().map(|branches| branches.iter().map(branch).collect::<Vec<_>>()),
        "error": listed.as_ref().err(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_comes_before_what_was_heard() {
        let mut branch = v1::InDoubtBranch {
            waiting_for: "its coordinator has not answered".into(),
            ..Default::default()
        };
        assert_eq!(standing(&branch), "prepared");
        assert_eq!(waits_for(&branch), "its coordinator has not answered");
        let mut site = v1::SiteStatus {
            promised: "3.1".into(),
            leader: "a".into(),
            missing: vec!["coordinator".into(), "b".into()],
            wanted: 1,
            ..Default::default()
        };
        site.set_standing(v1::SiteStanding::PreCommitted);
        branch.site = Some(site.clone());
        assert_eq!(standing(&branch), "pre_committed");
        assert_eq!(ballot(&site), "3.1, led by a");
        assert_eq!(waits_for(&branch), "1 of: coordinator, b");
    }
}
