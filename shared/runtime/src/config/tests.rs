//! Where values come from, which one wins, and what the errors say.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;

const fn setting(
    key: &'static str,
    flag: &'static str,
    env: &'static str,
    kind: Kind,
    default: Option<&'static str>,
) -> Setting {
    Setting { key, flag, env, kind, default, help: "For the test" }
}

const TABLE: &[Setting] = &[
    setting("listen", "listen", "HANDFAST_LISTEN", Kind::Address, Some("127.0.0.1:7420")),
    setting(
        "transaction_timeout",
        "transaction-timeout",
        "HANDFAST_TRANSACTION_TIMEOUT",
        Kind::Duration,
        Some("30s"),
    ),
    setting("payload_max", "payload-max", "HANDFAST_PAYLOAD_MAX", Kind::Size, Some("1MiB")),
    setting(
        "branches_max",
        "branches-max",
        "HANDFAST_BRANCHES_MAX",
        Kind::Integer { min: 1, max: 256 },
        Some("256"),
    ),
    setting("insecure", "insecure", "HANDFAST_INSECURE", Kind::Boolean, Some("false")),
    setting(
        "log.format",
        "log-format",
        "HANDFAST_LOG_FORMAT",
        Kind::Choice(&["auto", "pretty", "json"]),
        Some("auto"),
    ),
    setting("data", "data", "HANDFAST_DATA", Kind::Path, None),
    setting("name", "name", "HANDFAST_NAME", Kind::Text, None),
    setting("password", "password", "HANDFAST_PASSWORD", Kind::Secret, None),
];

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn load(
    flags: &[(&str, &str)],
    environment: &[(&str, &str)],
    file: Option<&Path>,
) -> Result<Settings, ConfigError> {
    let values =
        flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let lookup = |name: &str| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    };
    Settings::load(TABLE, &Flags { config: file.map(Path::to_owned), values }, &lookup)
}

fn origin(settings: &Settings, key: &str) -> Option<Origin> {
    settings.effective(key).expect("a setting").origin().cloned()
}

#[track_caller]
fn check_error(result: Result<Settings, ConfigError>, parts: &[&str]) {
    let message = result.expect_err("an error").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let file = file("transaction_timeout = '2s'\n");
    let path = file.path();
    let flag: &[(&str, &str)] = &[("transaction_timeout", "4s")];
    let variable: &[(&str, &str)] = &[("HANDFAST_TRANSACTION_TIMEOUT", "3s")];
    let check = |flags, environment, file, seconds, from: Origin| {
        let settings = load(flags, environment, file).expect("settings");
        let timeout: Duration = settings.get("transaction_timeout").expect("a duration");
        assert_eq!(timeout, Duration::from_secs(seconds), "{from}");
        assert_eq!(origin(&settings, "transaction_timeout"), Some(from));
    };
    check(flag, variable, Some(path), 4, Origin::Flag("transaction-timeout"));
    check(&[], variable, Some(path), 3, Origin::Environment("HANDFAST_TRANSACTION_TIMEOUT"));
    check(&[], &[], Some(path), 2, Origin::File(path.to_owned()));
    check(
        &[],
        &[("HANDFAST_TRANSACTION_TIMEOUT", "")],
        Some(path),
        2,
        Origin::File(path.to_owned()),
    );
    check(&[], &[], None, 30, Origin::Default);
}

#[test]
fn the_file_is_the_flags_or_the_variables() {
    let (by_flag, by_variable) = (file("name = 'flag'"), file("name = 'variable'"));
    let named = by_variable.path().to_str().expect("UTF-8");
    let name = |settings: Settings| settings.get::<String>("name").expect("a name");
    let settings = load(&[], &[(CONFIG_VARIABLE, named)], None).expect("settings");
    assert_eq!(settings.file(), Some(by_variable.path()));
    assert_eq!(name(settings), "variable");
    let settings = load(&[], &[(CONFIG_VARIABLE, named)], Some(by_flag.path())).expect("settings");
    assert_eq!(name(settings), "flag");
    assert_eq!(load(&[], &[(CONFIG_VARIABLE, "")], None).expect("settings").file(), None);
}

#[test]
fn every_kind_is_read() {
    let file = file(
        "listen = '[::1]:1'\ntransaction_timeout = '500ms'\npayload_max = '2KiB'\nbranches_max = 7\n\
         insecure = true\ndata = './d'\nname = 'n'\npassword = 'p'\n[log]\nformat = 'json'\n",
    );
    let settings = load(&[], &[], Some(file.path())).expect("settings");
    assert_eq!(
        settings.get::<SocketAddr>("listen").expect("address"),
        "[::1]:1".parse().expect("address")
    );
    assert_eq!(
        settings.get::<Duration>("transaction_timeout").expect("duration"),
        Duration::from_millis(500)
    );
    assert_eq!(settings.get::<u64>("payload_max").expect("size"), 2048);
    assert_eq!(settings.get::<usize>("branches_max").expect("integer"), 7);
    assert!(settings.get::<bool>("insecure").expect("boolean"));
    assert_eq!(settings.get::<PathBuf>("data").expect("path"), PathBuf::from("./d"));
    assert_eq!(settings.find::<String>("name").expect("text"), Some("n".to_owned()));
    assert_eq!(settings.get::<String>("password").expect("secret"), "p");
    assert_eq!(settings.get::<String>("log.format").expect("choice"), "json");
}

#[test]
fn an_unknown_key_is_an_error_with_near_misses() {
    let check = |text: &str, parts: &[&str]| {
        let file = file(text);
        let path = file.path().display().to_string();
        let parts: Vec<&str> = parts.iter().copied().chain([path.as_str()]).collect();
        check_error(load(&[], &[], Some(file.path())), &parts);
    };
    check(
        "transaction_timout = '2s'",
        &["`transaction_timout`", "did you mean `transaction_timeout`?"],
    );
    check(
        "transaction-timeout = '2s'",
        &["`transaction-timeout`", "did you mean `transaction_timeout`?"],
    );
    check("log_format = 'json'", &["`log_format`", "did you mean `log.format`?"]);
    check("[log]\nformt = 'json'", &["`log.formt`", "did you mean `log.format`?"]);
    check("[logs]", &["`logs`"]);
    check("colour = 'red'", &["`colour`", "`config show` lists every key"]);
}

#[test]
fn a_bad_value_is_an_error_that_names_key_value_place_and_a_good_one() {
    check_error(
        load(&[("transaction_timeout", "soon")], &[], None),
        &["`transaction_timeout`", "\"soon\"", "flag --transaction-timeout", "such as 500ms, 30s"],
    );
    check_error(
        load(&[], &[("HANDFAST_PAYLOAD_MAX", "64MB")], None),
        &["`payload_max`", "\"64MB\"", "environment HANDFAST_PAYLOAD_MAX", "64MiB"],
    );
    let check = |text: &str, parts: &[&str]| {
        let file = file(text);
        let place = format!("file {}", file.path().display());
        let parts: Vec<&str> = parts.iter().copied().chain([place.as_str()]).collect();
        check_error(load(&[], &[], Some(file.path())), &parts);
    };
    check("branches_max = 257", &["`branches_max`", "\"257\"", "from 1 to 256"]);
    check("branches_max = -1", &["`branches_max`", "\"-1\""]);
    check("transaction_timeout = 30", &["`transaction_timeout`", "\"30\"", "30s"]);
    check("insecure = 'yes'", &["`insecure`", "\"yes\"", "true or false"]);
    check("listen = 'localhost'", &["`listen`", "\"localhost\"", "127.0.0.1:7420"]);
    check("log.format = 'xml'", &["`log.format`", "\"xml\"", "auto, pretty, json"]);
    check("data = ''", &["`data`", "\"\"", "./handfast-data"]);
    check("name = ['a', 'b']", &["`name`", "[\\\"a\\\", \\\"b\\\"]", "a text"]);
    check("name = 1.5", &["`name`", "1.5"]);
}

#[test]
fn a_value_that_is_overruled_is_not_an_error() {
    let file = file("transaction_timeout = 'soon'\n");
    assert!(load(&[("transaction_timeout", "4s")], &[], Some(file.path())).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing.toml");
    check_error(load(&[], &[], Some(&missing)), &["missing.toml", "--config", "HANDFAST_CONFIG"]);
    let broken = file("listen = \n");
    check_error(
        load(&[], &[], Some(broken.path())),
        &[&broken.path().display().to_string(), "line 1"],
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let lookup = |name: &str| (name == "HANDFAST_NAME").then(|| OsString::from_vec(vec![0xff]));
    check_error(Settings::load(TABLE, &Flags::default(), &lookup), &["HANDFAST_NAME", "UTF-8"]);
}

#[test]
fn a_missing_value_says_how_to_give_it() {
    let settings = load(&[], &[], None).expect("settings");
    assert_eq!(settings.find::<PathBuf>("data").expect("may be missing"), None);
    let message = settings.get::<PathBuf>("data").expect_err("missing").to_string();
    for part in ["`data`", "--data", "HANDFAST_DATA", "`data = …`", "./handfast-data"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn show_is_a_file_with_the_origin_of_each_value() {
    let file = file("name = 'a \"b\"'\ninsecure = true\n");
    let settings = load(
        &[("branches_max", "1_0")],
        &[("HANDFAST_DATA", "/d"), ("HANDFAST_PASSWORD", "swordfish")],
        Some(file.path()),
    )
    .expect("settings");
    let shown = settings.to_string();
    let place = format!("# file {}", file.path().display());
    for (start, end) in [
        ("listen = \"127.0.0.1:7420\" ", "# default"),
        ("payload_max = \"1MiB\" ", "# default"),
        ("branches_max = 10 ", "# flag --branches-max"),
        ("insecure = true ", &place),
        ("log.format = \"auto\" ", "# default"),
        ("data = \"/d\" ", "# environment HANDFAST_DATA"),
        ("password = \"********\" ", "# environment HANDFAST_PASSWORD"),
    ] {
        assert!(
            shown.lines().any(|line| line.starts_with(start) && line.ends_with(end)),
            "{start}: {shown}"
        );
    }
    assert!(!shown.contains("swordfish"));
    let list = self::file("password = ['swordfish']");
    let message = load(&[], &[], Some(list.path())).expect_err("not a text").to_string();
    assert!(message.contains("`password`") && !message.contains("swordfish"), "{message}");

    let again = self::file(&shown);
    let reloaded = load(&[], &[], Some(again.path())).expect("what is shown can be loaded");
    assert_eq!(reloaded.get::<String>("name").expect("a name"), "a \"b\"");
    let unset = load(&[], &[], None).expect("settings").to_string();
    assert!(
        unset.lines().any(|line| line.starts_with("# data ") && line.ends_with("# not set")),
        "{unset}"
    );
}

#[test]
fn refusals_of_the_program_name_the_place_too() {
    let settings = load(&[("name", "x!")], &[], None).expect("settings");
    let message = settings.refuse("name", "made of a-z 0-9 - _ .").to_string();
    assert_eq!(message, "setting `name`: \"x!\" (from flag --name) is not made of a-z 0-9 - _ .");
}

#[test]
fn mistakes_in_the_program_are_found_at_the_start() {
    let check = |table: &[Setting], part: &str| {
        check_error(Settings::load(table, &Flags::default(), &|_| None), &[part]);
    };
    let text = |key, flag, env| setting(key, flag, env, Kind::Text, None);
    check(&[text("a", "a", "A"), text("a", "b", "B")], "`a` has a name that is taken");
    check(&[text("a.b", "a-b", "A"), text("a_b", "a-b", "B")], "`a_b` has a name that is taken");
    check(&[text("a", "a", "A"), text("b", "b", "A")], "`b` has a name that is taken");
    check(&[text("config", "config", "A")], "`config` has a name that is taken");
    check(
        &[setting("a", "a", "A", Kind::Boolean, Some("no"))],
        "`a`: the default \"no\" is not true or false",
    );
    check_error(load(&[("nothing", "1")], &[], None), &["`nothing`"]);
    let settings = load(&[], &[], None).expect("settings");
    assert!(matches!(settings.get::<u64>("nothing"), Err(ConfigError::Table(_))));
    assert!(matches!(settings.get::<u64>("listen"), Err(ConfigError::Table(_))));
}

#[test]
fn distances() {
    for (a, b, expected) in [
        ("", "", 0),
        ("a", "", 1),
        ("", "ab", 2),
        ("kitten", "sitting", 3),
        ("listen", "listen", 0),
        ("ab", "ba", 2),
    ] {
        assert_eq!(distance(a, b), expected, "{a} {b}");
    }
}
