//! What the server's clock can have shown.
//!
//! The machine's clock is known from the calls. A server's clock is that and an offset, which a test changes by steps while the
//! run goes on; when exactly a step came through is known up to a moment. A server may hold its clock when it is stepped back, or let
//! it go on from where it was: then it is ahead of what the step says, and no further than the highest offset until then.

use serde::{Deserialize, Serialize};

/// How far the readings of two processes of one machine may be apart.
pub const TOLERANCE_US: i64 = 20_000;

/// A clock that is stepped. Without steps it is the machine's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerClock {
    /// The steps, in the order of time. Before the first the offset is 0.
    pub steps: Vec<Step>,
}

/// From somewhere between two instants on, the clock has another offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// It was not there before this instant of the run.
    pub from_us: i64,
    /// It was surely there at this instant of the run.
    pub until_us: i64,
    /// The offset.
    pub offset_us: i64,
}

impl ServerClock {
    /// What the clock showed at the least from an instant of the run, at which the machine's clock showed `wall_us`, to another one.
    #[must_use]
    pub fn least(&self, from_us: i64, until_us: i64, wall_us: i64) -> i64 {
        let mut least = 0;
        for step in self.steps.iter().filter(|step| step.from_us <= until_us) {
            least = if step.until_us <= from_us { step.offset_us } else { least.min(step.offset_us) };
        }
        wall_us.saturating_add(least).saturating_sub(TOLERANCE_US)
    }

    /// What it showed at the most.
    #[must_use]
    pub fn most(&self, at_us: i64, wall_us: i64) -> i64 {
        let steps = self.steps.iter().filter(|step| step.from_us <= at_us);
        let most = steps.map(|step| step.offset_us).fold(0, i64::max);
        wall_us.saturating_add(most).saturating_add(TOLERANCE_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_uncertain_while_it_comes_and_certain_after_it() {
        let steps = vec![
            Step { from_us: 100, until_us: 200, offset_us: 5_000_000 },
            Step { from_us: 900, until_us: 950, offset_us: -7_000_000 },
        ];
        let clock = ServerClock { steps };
        let window = |at: i64| (clock.least(at, at, 0) + TOLERANCE_US, clock.most(at, 0) - TOLERANCE_US);
        assert_eq!(window(99), (0, 0));
        assert_eq!(window(150), (0, 5_000_000));
        assert_eq!(window(200), (5_000_000, 5_000_000));
        assert_eq!(window(925), (-7_000_000, 5_000_000));
        // Held, or going on from where it was: no further than it ever was ahead.
        assert_eq!(window(950), (-7_000_000, 5_000_000));
        // A call during which the clock is stepped back may have been answered by either.
        assert_eq!(clock.least(300, 920, 0) + TOLERANCE_US, -7_000_000);
    }
}
