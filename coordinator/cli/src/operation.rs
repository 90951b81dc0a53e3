//! Key-value operations as they are written on the command line: `accounts: add alice -5 floor 0; get bob`.

use handfast_client::Bytes;
use handfast_client::key_value::Work;

/// The operations of one participant.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchOperations {
    pub participant: String,
    pub operations: Vec<Operation>,
}

/// One operation on one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub key: Bytes,
    pub kind: Kind,
}

/// What is done to the key.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Get,
    Put(Bytes),
    Delete,
    Add {
        amount: i64,
        floor: Option<i64>,
    },
    /// No value: the key must be absent.
    Expect(Option<Bytes>),
}

impl Operation {
    /// Its name, as it is written.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Get => "get",
            Kind::Put(_) => "put",
            Kind::Delete => "delete",
            Kind::Add { .. } => "add",
            Kind::Expect(Some(_)) => "expect",
            Kind::Expect(None) => "absent",
        }
    }

    /// Adds itself to the work of a branch.
    pub fn add_to(&self, work: Work) -> Work {
        let key = self.key.clone();
        match &self.kind {
            Kind::Get => work.get(key),
            Kind::Put(value) => work.put(key, value.clone()),
            Kind::Delete => work.delete(key),
            Kind::Add { amount, floor: None } => work.add(key, *amount),
            Kind::Add { amount, floor: Some(floor) } => work.add_with_floor(key, *amount, *floor),
            Kind::Expect(Some(value)) => work.expect(key, value.clone()),
            Kind::Expect(None) => work.expect_absent(key),
        }
    }
}

/// The work of operations, in order.
pub fn work(operations: &[Operation]) -> Work {
    operations.iter().fold(Work::new(), |work, operation| operation.add_to(work))
}

/// Reads `NAME: OPERATION; OPERATION; …`.
pub fn parse_branch(text: &str) -> Result<BranchOperations, String> {
    let Some((participant, rest)) = text.split_once(':') else {
        return Err("key-value work is 'NAME: OPERATION; OPERATION; …'".into());
    };
    let participant = participant.trim();
    if participant.is_empty() {
        return Err("the participant's name before ':' is missing".into());
    }
    let operations: Vec<_> = split(rest)?
        .iter()
        .filter(|words| !words.is_empty())
        .map(|words| operation(words))
        .collect::<Result<_, _>>()?;
    if operations.is_empty() {
        return Err(format!("there is no operation for {participant:?}"));
    }
    Ok(BranchOperations { participant: participant.to_owned(), operations })
}

fn operation(words: &[Vec<u8>]) -> Result<Operation, String> {
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let (key, kind) = match words[..] {
        [b"get", key] => (key, Kind::Get),
        [b"put", key, value] => (key, Kind::Put(Bytes::copy_from_slice(value))),
        [b"delete", key] => (key, Kind::Delete),
        [b"add", key, amount] => (key, Kind::Add { amount: number(amount)?, floor: None }),
        [b"add", key, amount, b"floor", floor] => {
            (key, Kind::Add { amount: number(amount)?, floor: Some(number(floor)?) })
        }
        [b"expect", key, value] => (key, Kind::Expect(Some(Bytes::copy_from_slice(value)))),
        [b"absent", key] => (key, Kind::Expect(None)),
        [] | [_, ..] => {
            let text = words.join(&b' ').escape_ascii().to_string();
            return Err(format!(
                "`{text}` is no operation; one is: get KEY, put KEY VALUE, delete KEY, add KEY N [floor M], \
                 expect KEY VALUE, absent KEY"
            ));
        }
    };
    Ok(Operation { key: Bytes::copy_from_slice(key), kind })
}

fn number(word: &[u8]) -> Result<i64, String> {
    let text = word.escape_ascii().to_string();
    text.parse().map_err(|_| format!("{text:?} is no whole number of 64 bits"))
}

/// Splits at semicolons, then at blanks; what is quoted is one word.
fn split(text: &str) -> Result<Vec<Vec<Vec<u8>>>, String> {
    let mut operations = vec![Vec::new()];
    let mut word: Option<Vec<u8>> = None;
    let mut chars = text.chars();
    let mut end_word = |word: &mut Option<Vec<u8>>, next: bool| {
        if let (Some(word), Some(words)) = (word.take(), operations.last_mut()) {
            words.push(word);
        }
        if next {
            operations.push(Vec::new());
        }
    };
    while let Some(c) = chars.next() {
        match c {
            ';' => end_word(&mut word, true),
            c if c.is_whitespace() => end_word(&mut word, false),
            '\'' | '"' => quoted(c, &mut chars, word.get_or_insert_default())?,
            c => push(word.get_or_insert_default(), c),
        }
    }
    end_word(&mut word, false);
    Ok(operations)
}

/// Reads up to the closing quote. Only double quotes know escapes.
fn quoted(quote: char, chars: &mut std::str::Chars<'_>, word: &mut Vec<u8>) -> Result<(), String> {
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => match chars.next() {
                Some('n') => word.push(b'\n'),
                Some('t') => word.push(b'\t'),
                Some(c @ ('\\' | '"')) => push(word, c),
                Some('x') => {
                    let digits: String = chars.by_ref().take(2).collect();
                    let hex =
                        digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                    match u8::from_str_radix(&digits, 16) {
                        Ok(byte) if hex => word.push(byte),
                        _ => return Err(format!("\\x{digits} is no byte; one looks like \\xff")),
                    }
                }
                other => {
                    let other =
                        other.map_or_else(|| "at the end".into(), |c| format!("before {c:?}"));
                    return Err(format!(
                        "a backslash {other} means nothing; known are \\n \\t \\\\ \\\" \\xHH"
                    ));
                }
            },
            c => push(word, c),
        }
    }
    Err(format!("a quote ({quote}) is not closed"))
}

fn push(word: &mut Vec<u8>, c: char) {
    word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<(String, Kind)> {
        let branch = parse_branch(&format!("a: {text}")).expect(text);
        assert_eq!(branch.participant, "a");
        let operations = branch.operations.into_iter();
        operations
            .map(|operation| (operation.key.escape_ascii().to_string(), operation.kind))
            .collect()
    }

    fn put(value: &'static [u8]) -> Kind {
        Kind::Put(Bytes::from_static(value))
    }

    #[test]
    fn operations_are_read_in_order() {
        let expected = vec![
            ("k".to_owned(), put(b"v")),
            ("k".to_owned(), Kind::Get),
            ("n".to_owned(), Kind::Add { amount: -5, floor: Some(0) }),
            ("n".to_owned(), Kind::Add { amount: 1, floor: None }),
            ("e".to_owned(), Kind::Expect(Some("x".into()))),
            ("f".to_owned(), Kind::Expect(None)),
            ("k".to_owned(), Kind::Delete),
        ];
        let text = "put k v; get k; add n -5 floor 0;add n 1 ; expect e x; absent f; delete k;";
        assert_eq!(parse(text), expected);
        assert_eq!(work(&parse_branch(&format!("a:{text}")).expect(text).operations).len(), 7);
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(parse(r#"put 'a;b' "x y""#), [("a;b".to_owned(), put(b"x y"))]);
        assert_eq!(parse(r#"put k "\"\\\n\t\xff""#), [("k".to_owned(), put(b"\"\\\n\t\xff"))]);
        assert_eq!(parse(r"put k '\n'"), [("k".to_owned(), put(br"\n"))]);
        assert_eq!(parse(r#"put k "" "#), [("k".to_owned(), put(b""))]);
        assert_eq!(parse(r#"put k pre"fix ed""#), [("k".to_owned(), put(b"prefix ed"))]);
        assert_eq!(parse("put k ä"), [("k".to_owned(), put("ä".as_bytes()))]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, message: &str| {
            let error = parse_branch(text).expect_err(text);
            assert!(error.contains(message), "{text:?}: {error}");
        };
        check("put k v", "'NAME: OPERATION");
        check(": put k v", "name before ':'");
        check("a:", "no operation for \"a\"");
        check("a: ; ;", "no operation for \"a\"");
        check("a: fetch k", "`fetch k` is no operation");
        check("a: put k", "`put k` is no operation");
        check("a: get", "`get` is no operation");
        check("a: add k five", "\"five\" is no whole number");
        check("a: add k 9223372036854775808", "is no whole number of 64 bits");
        check("a: put k 'v", "is not closed");
        check(r#"a: put k "\q""#, "a backslash before 'q'");
        check(r#"a: put k "\xf""#, "is no byte");
        check(r#"a: put k "\x+1""#, "is no byte");
    }
}
