#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use weir_base::clock::ManualClock;
use weir_base::quantity::ByteSize;
use weir_base::{TenantId, Timestamp};
use weir_meta::limits::{Limits, Tier};

use super::{Admission, AdmissionError, AdmissionOptions, Cost};

struct Setting {
    clock: Arc<ManualClock>,
    admission: Admission,
}

fn setting(options: AdmissionOptions) -> Setting {
    let clock = ManualClock::new(Timestamp(0));
    let admission = Admission::new(Arc::clone(&clock) as _, &options);
    Setting { clock, admission }
}

fn limits(rows_per_second: u64, rows_burst: u64) -> Arc<Limits> {
    let unlimited = ByteSize(0);
    Arc::new(Limits { rows_per_second, rows_burst, bytes_per_second: unlimited, ..Limits::of_tier(Tier::Free) })
}

fn rows(rows: u64) -> Cost {
    Cost { rows, ..Cost::default() }
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

impl Setting {
    fn admit(&self, name: &str, limits: &Arc<Limits>, cost: Cost) -> Result<(), AdmissionError> {
        self.admission.admit(&tenant(name), limits, cost)
    }

    fn wait(&self, millis: u64) {
        self.clock.advance(Duration::from_millis(millis));
    }
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let setting = setting(AdmissionOptions::default());
    let limits = limits(100, 500);
    setting.admit("a", &limits, rows(300)).unwrap();
    setting.admit("a", &limits, rows(200)).unwrap();
    assert_eq!(
        setting.admit("a", &limits, rows(50)),
        Err(AdmissionError::Rate {
            name: "rows_per_second",
            value: 100,
            current: 500,
            retry_after: Duration::from_millis(500),
            is_whole: false
        })
    );
    // A refusal takes nothing, and the time it names is enough.
    setting.wait(499);
    assert!(setting.admit("a", &limits, rows(50)).is_err());
    setting.wait(1);
    setting.admit("a", &limits, rows(50)).unwrap();
    // Another tenant has buckets of its own.
    setting.admit("b", &limits, rows(500)).unwrap();
    // The bucket never holds more than the burst.
    setting.wait(3_600_000);
    setting.admit("a", &limits, rows(500)).unwrap();
    assert!(setting.admit("a", &limits, rows(1)).is_err());
}

#[test]
fn what_never_fits_says_so() {
    let setting = setting(AdmissionOptions::default());
    let error = setting.admit("a", &limits(100, 500), rows(501)).unwrap_err();
    assert_eq!(error, AdmissionError::Burst { name: "rows_burst", value: 500, wanted: 501, is_whole: false });
    assert_eq!(error.to_string(), "rows_burst is 500, and the request has 501");
    setting.admit("a", &limits(0, 1), rows(u64::MAX)).unwrap();
}

#[test]
fn all_buckets_or_none() {
    let setting = setting(AdmissionOptions { rows_per_second: 10, rows_burst: 400, ..AdmissionOptions::default() });
    let limits = limits(100, 500);
    setting.admit("a", &limits, rows(400)).unwrap();
    // The server's bucket is empty; the tenant's must not pay for that.
    let slow = self::limits(1, 400);
    let error = setting.admit("b", &slow, rows(100)).unwrap_err();
    assert!(matches!(error, AdmissionError::Rate { is_whole: true, .. }), "{error}");
    assert!(error.to_string().starts_with("for all tenants together, rows_per_second is 10"), "{error}");
    setting.admission.refund(&tenant("a"), rows(400));
    setting.admit("b", &slow, rows(400)).unwrap();
    // And the other way: a tenant over its own limit takes nothing from the others.
    setting.wait(40_000);
    setting.admit("c", &self::limits(1, 100), rows(100)).unwrap();
    for _ in 0..1000 {
        assert!(setting.admit("c", &self::limits(1, 100), rows(100)).is_err());
    }
    setting.admit("d", &limits, rows(300)).unwrap();
}

#[test]
fn changed_limits_are_followed() {
    let setting = setting(AdmissionOptions::default());
    setting.admit("a", &limits(100, 500), rows(400)).unwrap();
    // What was used stays used.
    let wider = limits(100, 1000);
    assert!(setting.admit("a", &wider, rows(601)).is_err());
    setting.admit("a", &wider, rows(600)).unwrap();
    let narrower = limits(1, 10);
    assert!(setting.admit("a", &narrower, rows(1)).is_err());
    setting.wait(10_000);
    setting.admit("a", &narrower, rows(10)).unwrap();
    let unlimited = limits(0, 10);
    setting.admit("a", &unlimited, rows(1_000_000)).unwrap();
}

#[test]
fn refunds_come_back() {
    let setting = setting(AdmissionOptions { rows_per_second: 1, rows_burst: 500, ..AdmissionOptions::default() });
    let limits = limits(1, 500);
    setting.admit("a", &limits, rows(500)).unwrap();
    setting.admission.refund(&tenant("a"), rows(500));
    setting.admit("a", &limits, rows(500)).unwrap();
    setting.admission.refund(&tenant("a"), rows(u64::MAX));
    setting.admit("a", &limits, rows(500)).unwrap();
    assert!(setting.admit("a", &limits, rows(1)).is_err(), "never more than the burst");
}

#[test]
fn the_table_only_has_who_sent_lately() {
    let setting = setting(AdmissionOptions::default());
    let limits = limits(100, 500);
    for round in 0..10 {
        for n in 0..1000 {
            setting.admit(&format!("t{round}-{n}"), &limits, rows(10)).unwrap();
        }
        setting.wait(10_000);
    }
    assert!(setting.admission.tenants_tracked() <= 2000, "{}", setting.admission.tenants_tracked());
}

proptest! {
    /// Over any time, no more is admitted than the burst and the rate allow.
    #[test]
    fn never_more_than_burst_and_rate(steps in proptest::collection::vec((0..2_000_u64, 1..200_u64), 1..200)) {
        let setting = setting(AdmissionOptions::default());
        let limits = limits(50, 100);
        let (mut admitted, mut elapsed) = (0, 0);
        for (millis, count) in steps {
            setting.wait(millis);
            elapsed += millis;
            match setting.admit("a", &limits, rows(count)) {
                Ok(()) => admitted += count,
                Err(AdmissionError::Burst { .. }) => prop_assert!(count > 100),
                Err(AdmissionError::Rate { retry_after, .. }) => {
                    prop_assert!(retry_after <= Duration::from_secs(2));
                    setting.clock.advance(retry_after);
                    elapsed += u64::try_from(retry_after.as_micros().div_ceil(1000)).unwrap();
                    prop_assert_eq!(setting.admit("a", &limits, rows(count)), Ok(()));
                    admitted += count;
                }
            }
            prop_assert!(admitted <= 100 + elapsed * 50 / 1000 + 1, "{admitted} in {elapsed} ms");
        }
    }
}
