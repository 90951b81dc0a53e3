//! Runs the scripts in `tests/scenarios`: one race or failure each, told step by step.
//!
//! A block of a script is a list of commands, `----`, and exactly what happened. After a change that
//! is meant to change what happens:
//!
//! ```text
//! REWRITE=1 cargo test -p handfast-commit-core --test scenarios
//! ```
//!
//! and explain the difference in the commit. `RUN=happy_path.txt` runs one script.
//! `setup` blocks are silent. The commands are those of [`script::Script::command`].

mod script;
mod world;

use handfast_commit_core::marks::{self, Mark};
use script::Script;

#[test]
fn every_script_tells_what_happens() {
    // Of the checkout that cargo runs the tests of: two may share what was compiled.
    let package = std::env::var("CARGO_MANIFEST_DIR");
    let package = package.unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    datadriven::walk(&format!("{package}/tests/scenarios"), |file| {
        let mut script = Script::new();
        let name = file.filename.clone();
        file.run(|block| {
            let result = script.block(&block.directive, &block.input);
            result.map_err(|error| format!("{name}: {error}"))
        });
    });
    // A rule without a script. Only a whole run can tell, in a build that counts.
    if marks::RECORDING && std::env::var_os("RUN").is_none() {
        let counts = marks::take();
        let unreached = Mark::ALL.iter().filter(|mark| counts[**mark as usize] == 0);
        let names: Vec<&str> = unreached.map(|mark| mark.name()).collect();
        assert_eq!(names, Vec::<&str>::new(), "no script shows these rules of docs/rules.md");
    }
}
