//! The one clock: `CLOCK_BOOTTIME`, read here and passed into the core as an argument.

use std::time::Duration;

use berth_ipam::time::Time;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since this boot, time asleep included.
pub fn now() -> Time {
    let reading = clock_gettime(ClockId::Boottime);
    // The kernel gives neither a negative second nor more than a second of nanoseconds.
    let seconds = u64::try_from(reading.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(reading.tv_nsec).unwrap_or(0);
    Time(0) + Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
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
