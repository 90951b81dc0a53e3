//! One line of a script, word by word.

use handfast_commit_core::id::ParticipantName;

/// Plain words keep their order; `key=value` may stand anywhere.
pub struct Words {
    plain: Vec<String>,
    values: Vec<(String, String)>,
}

impl Words {
    pub fn new(line: &str) -> Self {
        let mut words = Self { plain: Vec::new(), values: Vec::new() };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => words.values.push((key.to_owned(), value.to_owned())),
                None => words.plain.push(word.to_owned()),
            }
        }
        words
    }

    pub fn next(&mut self, what: &str) -> Result<String, String> {
        if self.plain.is_empty() {
            Err(format!("{what} is missing"))
        } else {
            Ok(self.plain.remove(0))
        }
    }

    pub fn name(&mut self) -> Result<ParticipantName, String> {
        name(&self.next("a participant")?)
    }

    /// All the words that are left, as participants.
    pub fn names(&mut self) -> Result<Vec<ParticipantName>, String> {
        self.rest().iter().map(|word| name(word)).collect()
    }

    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.plain)
    }

    pub fn skip(&mut self, word: &str) {
        if self.plain.first().is_some_and(|first| first == word) {
            self.plain.remove(0);
        }
    }

    /// Whether the word is there.
    pub fn flag(&mut self, word: &str) -> bool {
        let before = self.plain.len();
        self.plain.retain(|plain| plain != word);
        self.plain.len() < before
    }

    pub fn value(&mut self, key: &str) -> Option<String> {
        let index = self.values.iter().position(|(found, _)| found == key)?;
        Some(self.values.remove(index).1)
    }

    pub fn number(&mut self, key: &str) -> Result<Option<u64>, String> {
        let parse = |value: String| value.parse().map_err(|_| format!("{key} wants a number"));
        self.value(key).map(parse).transpose()
    }

    pub fn micros(&mut self, key: &str) -> Result<Option<u64>, String> {
        self.value(key).map(|value| micros(&value)).transpose()
    }

    /// Every word has been understood.
    pub fn end(&self) -> Result<(), String> {
        match (self.plain.first(), self.values.first()) {
            (None, None) => Ok(()),
            (Some(word), _) => Err(format!("what is {word:?}?")),
            (None, Some((key, _))) => Err(format!("what is {key}=?")),
        }
    }
}

pub fn name(word: &str) -> Result<ParticipantName, String> {
    word.parse().map_err(|error| format!("{word}: {error}"))
}

/// Seconds, as in `1.5s`, in microseconds.
pub fn micros(word: &str) -> Result<u64, String> {
    let wrong = || format!("{word} are no seconds; they look like 1.5s");
    let (whole, part) = word
        .strip_suffix('s')
        .ok_or_else(wrong)?
        .split_once('.')
        .unwrap_or((word.strip_suffix('s').ok_or_else(wrong)?, "0"));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    Ok(whole * 1_000_000 + part)
}
