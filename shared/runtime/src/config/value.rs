//! Values of settings: what a text means, and what a program reads them as.
//!
//! Durations and sizes need their unit. A bare `500` would be seconds to one reader and milliseconds to
//! another, and the program would take either without a word.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Kind;

/// A value that fits its setting's [`Kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Size`] in bytes, and of [`Kind::Integer`].
    Integer(u64),
    /// Of [`Kind::Boolean`].
    Boolean(bool),
    /// Of [`Kind::Text`], [`Kind::Secret`] and [`Kind::Choice`].
    Text(String),
    /// Of [`Kind::Address`].
    Address(SocketAddr),
    /// Of [`Kind::Path`].
    Path(PathBuf),
}

impl Value {
    /// Reads a text as a value of this kind. `None`: it is not one; [`Kind::wanted`] says what is.
    #[must_use]
    pub fn parse(kind: Kind, text: &str) -> Option<Self> {
        match kind {
            Kind::Duration => parse_duration(text).map(Self::Duration),
            Kind::Size => parse_size(text).map(Self::Integer),
            Kind::Integer { min, max } => {
                let number = parse_number(text)?;
                (min..=max).contains(&number).then_some(Self::Integer(number))
            }
            Kind::Boolean => text.parse().ok().map(Self::Boolean),
            Kind::Text | Kind::Secret => (!text.is_empty()).then(|| Self::Text(text.to_owned())),
            Kind::Choice(words) => words.contains(&text).then(|| Self::Text(text.to_owned())),
            Kind::Address => text.parse().ok().map(Self::Address),
            Kind::Path => (!text.is_empty()).then(|| Self::Path(text.into())),
        }
    }
}

/// Digits, with `_` between them where the writer likes.
fn parse_number(text: &str) -> Option<u64> {
    let starts_and_ends = |test: fn(&u8) -> bool| {
        text.as_bytes().first().is_some_and(test) && text.as_bytes().last().is_some_and(test)
    };
    if !starts_and_ends(u8::is_ascii_digit)
        || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
    {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (number, unit) = text.split_at(digits);
    Some((parse_number(number)?, unit))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let unit_us = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(unit_us).map(Duration::from_micros)
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let unit_bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit_bytes)
}

/// What [`Settings::get`](super::Settings::get) returns.
pub trait FromValue: Sized {
    /// The value as this type; `None` when it is of another kind, or does not fit.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($variant:ident => $type:ty),+ $(,)?) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::$variant(value) => Self::try_from(value.clone()).ok(),
                    _ => None,
                }
            }
        }
    )+};
}

from_value! {
    Duration => Duration,
    Integer => u64,
    Integer => u32,
    Integer => u16,
    Integer => usize,
    Boolean => bool,
    Text => String,
    Address => SocketAddr,
    Path => PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn good(kind: Kind, texts: &[(&str, Value)]) {
        for (text, value) in texts {
            assert_eq!(Value::parse(kind, text).as_ref(), Some(value), "{kind:?}: {text:?}");
        }
    }

    #[track_caller]
    fn bad(kind: Kind, texts: &[&str]) {
        for text in texts {
            assert_eq!(Value::parse(kind, text), None, "{kind:?}: {text:?}");
        }
    }

    #[test]
    fn durations() {
        let us = |us| Value::Duration(Duration::from_micros(us));
        good(
            Kind::Duration,
            &[
                ("250us", us(250)),
                ("500ms", us(500_000)),
                ("30s", us(30_000_000)),
                ("5m", us(300_000_000)),
                ("24h", us(86_400_000_000)),
                ("7d", us(604_800_000_000)),
                ("0s", us(0)),
                ("1_000ms", us(1_000_000)),
            ],
        );
        bad(
            Kind::Duration,
            &[
                "",
                "30",
                "s",
                "-1s",
                "+1s",
                "1.5s",
                "1 s",
                "1S",
                "_1s",
                "1_s",
                "1w",
                "213503982334602d",
            ],
        );
    }

    #[test]
    fn sizes() {
        let bytes = Value::Integer;
        good(
            Kind::Size,
            &[
                ("0B", bytes(0)),
                ("512B", bytes(512)),
                ("64KiB", bytes(65_536)),
                ("64MiB", bytes(67_108_864)),
                ("2GiB", bytes(2_147_483_648)),
                ("1TiB", bytes(1_099_511_627_776)),
            ],
        );
        bad(
            Kind::Size,
            &["", "64", "64MB", "64mib", "64 MiB", "-1B", "1.5GiB", "MiB", "16777216TiB"],
        );
    }

    #[test]
    fn integers_have_bounds() {
        let kind = Kind::Integer { min: 1, max: 256 };
        good(
            kind,
            &[("1", Value::Integer(1)), ("256", Value::Integer(256)), ("1_0", Value::Integer(10))],
        );
        bad(
            kind,
            &["", "0", "257", "-1", "+1", "1.0", "ten", "_1", "1_", "_", "18446744073709551616"],
        );
    }

    #[test]
    fn the_others() {
        good(Kind::Boolean, &[("true", Value::Boolean(true)), ("false", Value::Boolean(false))]);
        bad(Kind::Boolean, &["", "yes", "1", "True"]);
        let words = Kind::Choice(&["auto", "json"]);
        good(words, &[("json", Value::Text("json".to_owned()))]);
        bad(words, &["", "JSON", "xml"]);
        good(Kind::Text, &[("a b", Value::Text("a b".to_owned()))]);
        bad(Kind::Text, &[""]);
        bad(Kind::Secret, &[""]);
        good(Kind::Path, &[("./data", Value::Path("./data".into()))]);
        bad(Kind::Path, &[""]);
        let address = |text: &str| Value::Address(text.parse().expect("an address"));
        good(
            Kind::Address,
            &[("127.0.0.1:0", address("127.0.0.1:0")), ("[::1]:7420", address("[::1]:7420"))],
        );
        bad(
            Kind::Address,
            &["", "7420", ":7420", "127.0.0.1", "127.0.0.1:65536", "::1:7420x", "localhost:7420"],
        );
    }

    #[test]
    fn a_number_that_does_not_fit_is_not_cut() {
        assert_eq!(u16::from_value(&Value::Integer(65_535)), Some(65_535));
        assert_eq!(u16::from_value(&Value::Integer(65_536)), None);
        assert_eq!(u64::from_value(&Value::Boolean(true)), None);
    }
}
