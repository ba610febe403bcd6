//! The one source of time. Tests hold it; everything else reads it.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize, Serializer};

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(transparent)]
pub struct Time(i64);

impl Time {
    /// From microseconds since 1970; any value is kept, but only those of the
    /// years 0 to 9999 print.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This time and so many seconds; stops at the ends of the range.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// This time and so many minutes; stops at the ends of the range.
    #[must_use]
    pub const fn plus_minutes(self, minutes: i64) -> Self {
        self.plus_seconds(minutes.saturating_mul(60))
    }

    /// This time and so many microseconds; stops at the ends of the range.
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this time; negative when it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads RFC 3339 text with an offset.
    ///
    /// # Errors
    /// When the text is not such a time.
    pub fn parse(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>().map(|at| Self(at.as_microsecond()))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(at) => write!(f, "{at:.6}"),
            Err(_) => write!(f, "out-of-range({})", self.0),
        }
    }
}

/// Prints RFC 3339, as the wire contract wants it.
impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Tells the time. Never goes back within a process.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now.
    fn now(&self) -> Time;

    /// Tells no time before this one from now on. A clock that is set by hand does what the hand does.
    fn reach(&self, at: Time) {
        let _ = at;
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock, but that it never goes back: a step of the host's clock must not revive an expired lease. Stepped back,
/// it goes on from where it was, so that leases end in their time.
#[derive(Debug, Default)]
pub struct SystemClock {
    /// What was told last, and when by the clock that is never stepped.
    latest: Mutex<Option<(Time, Instant)>>,
}

impl SystemClock {
    /// The later one of a reading and of what was told last and the time since then.
    fn forward(&self, read: Time) -> Time {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // After the reading: what is told is never ahead of a clock that was not stepped.
        let at = Instant::now();
        let goes_on = latest.map(|(told, then)| {
            told.plus_micros(i64::try_from(at.duration_since(then).as_micros()).unwrap_or(i64::MAX))
        });
        let now = goes_on.map_or(read, |goes_on| goes_on.max(read));
        *latest = Some((now, at));
        now
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn now(&self) -> Time {
        self.forward(Time(jiff::Timestamp::now().as_microsecond()))
    }

    fn reach(&self, at: Time) {
        self.forward(at);
    }
}

/// A clock that only moves when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    micros: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `at`.
    #[must_use]
    pub const fn at(at: Time) -> Self {
        Self { micros: AtomicI64::new(at.0) }
    }

    /// Moves the clock; negative moves it back, as a stepped host clock would.
    pub fn advance_seconds(&self, seconds: i64) {
        self.micros.fetch_add(seconds.saturating_mul(1_000_000), Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time(self.micros.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_ahead_goes_on_from_there_and_does_not_stand_still() {
        let clock = SystemClock::default();
        let ahead = clock.now().plus_minutes(60);
        clock.reach(ahead);
        let first = clock.now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let second = clock.now();
        assert!(first >= ahead && second.since(first) >= 20_000, "{ahead} {first} {second}");
        // What is reached already changes nothing.
        clock.reach(ahead.plus_minutes(-120));
        assert!(clock.now() >= second);
    }

    #[test]
    fn a_clock_that_was_not_stepped_tells_the_machines_time() {
        let (first, second) = (SystemClock::default(), SystemClock::default());
        for _ in 0..1000 {
            first.now();
        }
        let (told, fresh) = (first.now(), second.now());
        assert!(told <= fresh, "{told} is ahead of {fresh}");
    }
}
