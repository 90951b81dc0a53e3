//! The targets under libFuzzer: `HANDFAST_FUZZ_TARGET` says which one, the arguments are libFuzzer's.

#![no_main]

use std::sync::LazyLock;

use handfast_fuzz::{Target, target};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("HANDFAST_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("HANDFAST_FUZZ_TARGET names no target: {name:?}"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    TARGET.run(input);
});
