//! What a run's checks amount to: pure counting.

use tarn_daemon_api::HealthStatus;

/// The checks of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// Failures in a row that condemn the run; none if there are no checks.
    threshold: Option<u32>,
    failures: u32,
    status: HealthStatus,
}

/// What a failed check means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Borne,
    /// It is to be ended.
    Condemned,
}

// === impl Health ===

impl Health {
    pub(super) fn new(threshold: Option<u32>) -> Self {
        let status = match threshold {
            None => HealthStatus::Disabled,
            Some(_) => HealthStatus::Starting,
        };
        Self { threshold, failures: 0, status }
    }

    /// Begins with a new run.
    pub(super) fn renew(&mut self) {
        *self = Self::new(self.threshold);
    }

    pub(super) fn passed(&mut self) {
        (self.failures, self.status) = (0, HealthStatus::Healthy);
    }

    pub(super) fn failed(&mut self) -> Verdict {
        self.failures = self.failures.saturating_add(1);
        let condemned = self.threshold.is_some_and(|threshold| self.failures >= threshold);
        if condemned || self.status == HealthStatus::Healthy {
            self.status = HealthStatus::Unhealthy;
        }
        if condemned { Verdict::Condemned } else { Verdict::Borne }
    }

    pub(super) fn status(&self) -> HealthStatus {
        self.status
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use HealthStatus::{Disabled, Healthy, Starting, Unhealthy};
    use Verdict::{Borne, Condemned};

    #[test]
    fn checks_are_counted_in_a_row() {
        let mut health = Health::new(Some(3));
        assert_eq!(health.status(), Starting);
        let table = [
            (false, Some(Borne), 1, Starting),
            (false, Some(Borne), 2, Starting),
            (true, None, 0, Healthy),
            (false, Some(Borne), 1, Unhealthy),
            (true, None, 0, Healthy),
            (false, Some(Borne), 1, Unhealthy),
            (false, Some(Borne), 2, Unhealthy),
            (false, Some(Condemned), 3, Unhealthy),
        ];
        for (step, (passed, verdict, failures, status)) in table.into_iter().enumerate() {
            let found = if passed {
                health.passed();
                None
            } else {
                Some(health.failed())
            };
            assert_eq!(found, verdict, "{step}");
            assert_eq!((health.failures(), health.status()), (failures, status), "{step}");
        }
        health.renew();
        assert_eq!(health, Health::new(Some(3)));
    }

    #[test]
    fn one_that_never_was_well_is_unhealthy_at_the_threshold() {
        let mut health = Health::new(Some(1));
        assert_eq!((health.failed(), health.status()), (Condemned, Unhealthy));
        assert_eq!(Health::new(None).status(), Disabled);
    }
}
