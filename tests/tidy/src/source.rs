//! Rust source as the checks see it: what the compiler would read, line by line as in the file, with
//! comments and the contents of texts replaced by blanks.
//!
//! This is a scanner for well-formatted source, not a parser: it knows comments, texts, characters and
//! braces, and nothing of macros that take apart what they are given.

/// Replaces comments and the contents of texts and characters by blanks; lines stay where they are.
pub fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => comment_end(&chars, at),
            '"' => text_end(&chars, at),
            'r' if !preceded_by_word(&chars, at) => raw_text_end(&chars, at).unwrap_or(at),
            'b' | 'c' if !preceded_by_word(&chars, at) && chars.get(at + 1) == Some(&'r') => {
                raw_text_end(&chars, at + 1).unwrap_or(at)
            }
            '\'' => character_end(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            // Quotes stay, so that `expect("…")` and `expect()` remain different.
            let quoted = chars[at] != '/';
            for (place, &character) in chars[at..end].iter().enumerate() {
                let edge = quoted && (place == 0 || place == end - at - 1);
                out.push(if character == '\n' || edge { character } else { ' ' });
            }
            at = end;
        }
    }
    out
}

fn preceded_by_word(chars: &[char], at: usize) -> bool {
    at > 0 && is_word(chars[at - 1])
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |length| at + length)
}

/// Block comments nest.
fn comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut here = at;
    while here < chars.len() {
        match (chars[here], chars.get(here + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                here += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                here += 2;
                if depth == 0 {
                    return here;
                }
            }
            _ => here += 1,
        }
    }
    chars.len()
}

fn text_end(chars: &[char], at: usize) -> usize {
    let mut here = at + 1;
    while here < chars.len() {
        match chars[here] {
            '\\' => here += 2,
            '"' => return here + 1,
            _ => here += 1,
        }
    }
    chars.len()
}

/// `r"…"` and `r#"…"#`; `None` for a word that begins with r, and for `r#word`.
fn raw_text_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let close = |place: usize| {
        chars[place] == '"'
            && chars[place + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes
    };
    Some(
        (open + 1..chars.len())
            .find(|&place| close(place))
            .map_or(chars.len(), |place| place + 1 + hashes),
    )
}

/// `None` for a lifetime.
fn character_end(chars: &[char], at: usize) -> Option<usize> {
    match (chars.get(at + 1)?, chars.get(at + 2)) {
        ('\\', _) => {
            chars.get(at + 3..)?.iter().position(|&c| c == '\'').map(|length| at + 4 + length)
        }
        (_, Some('\'')) => Some(at + 3),
        _ => None,
    }
}

/// Blanks out every item under `#[cfg(test)]`; expects what [`code`] returns.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let (before, item) = rest.split_at(start);
        let (item, after) = item.split_at(item_length(item));
        out.push_str(before);
        out.extend(item.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Up to the item's closing brace or its semicolon, whichever ends it.
fn item_length(item: &str) -> usize {
    let mut depth = 0usize;
    for (place, character) in item.char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && character == '}' {
                    return place + 1;
                }
            }
            ';' if depth == 0 => return place + 1,
            _ => {}
        }
    }
    item.len()
}

/// Whether `word` occurs in `line`, not as a part of a longer word.
pub fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Whether all of a file is test code: it lies in a folder of tests, or is named as tests are.
pub fn is_test_file(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    folder.split('/').any(|part| ["tests", "benches", "examples"].contains(&part))
        || name == "tests.rs"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squeezed(text: &str) -> String {
        code(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_texts_are_blank() {
        assert_eq!(squeezed("a(); // b()\nc();"), "a(); c();");
        assert_eq!(squeezed("a /* b /* c */ d */ e"), "a e");
        assert_eq!(
            squeezed(r#"f("x \" y", 'z', '\'', '\u{1F600}', b"w")"#),
            r#"f(" ", ' ', ' ', ' ', b" ")"#
        );
        assert_eq!(
            squeezed(r###"f(r#"a "b" c"#, r"d\", br"e") + r#type"###),
            "f(r #, r \", b \") + r#type"
        );
    }

    #[test]
    fn lifetimes_are_no_characters() {
        assert_eq!(
            squeezed("fn f<'a>(x: &'a str) -> &'static str { x }"),
            "fn f<'a>(x: &'a str) -> &'static str { x }"
        );
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\nc */\n\"d\ne\"\nf";
        assert_eq!(code(text).lines().count(), text.lines().count());
        assert_eq!(code(text).lines().last(), Some("f"));
    }

    #[test]
    fn tests_are_blanked_and_what_follows_is_not() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { c() }\n}\nfn d() \
         {}\n#[cfg(test)]\nmod e;\nfn f() {}\n";
        let kept = without_tests(text).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(kept, "fn a() {} fn d() {} fn f() {}");
        assert_eq!(without_tests(text).lines().count(), text.lines().count());
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use rand::Rng;", "rand"));
        assert!(!has_word("let operand = brand_new;", "rand"));
    }

    #[test]
    fn test_files_are_told_by_place_and_name() {
        for path in [
            "tests/chaos/src/lib.rs",
            "shared/wire/tests/frames.rs",
            "participant/src/engine/tests.rs",
        ] {
            assert!(is_test_file(path), "{path}");
        }
        assert!(!is_test_file("participant/src/conformance.rs"));
    }
}
