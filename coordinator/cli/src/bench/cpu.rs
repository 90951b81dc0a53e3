//! What a process has used, from `/proc`: processor time and memory.
//!
//! Absent on purpose: any other system than Linux, and processes that have ended (they have used nothing
//! that anybody could still ask for).

use std::time::Duration;

/// The unit of the times in `/proc/PID/stat`: `USER_HZ` is 100 on every platform that we run on, whatever
/// the kernel's own clock.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process so far: its own and the kernel's for it, all threads.
pub fn used(pid: u32) -> Option<Duration> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses, which may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.checked_add(system)?)
}

/// Bytes of a process that are in memory.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    parse_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_status(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_whatever_the_program_is_called() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 2 0 0 0 150 25 0 0 20 0 4 0 8 9 10";
        assert_eq!(parse_stat(text), Some(Duration::from_millis(1750)));
        assert_eq!(parse_stat("7 (a) S 1"), None);
        assert_eq!(parse_status("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_status("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let own = std::process::id();
        assert!(used(own).is_some() && resident_bytes(own).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(used(u32::MAX), None);
    }
}
