//! Limits that are checked at the edge, so that what is inside needs no second check.

/// Most branches in one transaction.
pub const BRANCHES_MAX: usize = 256;
/// Most witnesses of one transaction.
pub const WITNESSES_MAX: usize = 16;
/// Most bytes of work in one branch.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a summary or of a client's abort reason.
pub const SUMMARY_BYTES_MAX: usize = 256;
/// Most labels of one transaction.
pub const LABELS_MAX: usize = 16;
/// Most bytes of a label's key, and of its value.
pub const LABEL_BYTES_MAX: usize = 64;
/// Most bytes of a reason that a participant gives; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 1024;

/// Cuts text to at most `bytes_max` bytes, at a character boundary.
#[must_use]
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
