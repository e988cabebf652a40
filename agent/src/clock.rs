//! The one clock: `CLOCK_BOOTTIME`, read here and passed into the core as an argument.

use berth_ipam::time::Time;
use berth_underlay::wire::shell::boot_time;

/// Nanoseconds since this boot, time asleep included.
pub fn now() -> Time {
    boot_time()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_counts_from_the_boot() {
        let before = now();
        let uptime: f64 =
            std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let after = now();
        assert!(after.since(before) >= Duration::from_millis(20));
        let seconds = before.since(Time(0)).as_secs_f64();
        assert!((seconds - uptime).abs() < 5.0, "{seconds} s against an uptime of {uptime} s");
    }
}
