use weir_component::sink::Decision;

use super::choose;
use crate::manifest::Manifest;

/// A manifest: `epoch` with the content of `prepared`, proposed to the sink `k` or not.
fn manifest(epoch: u64, prepared: u64, is_proposal: bool) -> Manifest {
    let mut manifest = Manifest::new("p", 1, prepared, 0);
    if is_proposal {
        manifest.propose("k").unwrap();
    }
    manifest.epoch = epoch;
    manifest
}

fn decision(epoch: u64) -> Decision {
    manifest(epoch, epoch, true).decision()
}

/// The epoch that is chosen, or how it is refused.
fn chosen(manifests: &[Manifest], decided: Option<u64>) -> Result<Option<u64>, String> {
    let decision = decided.map(decision);
    let chosen = choose(manifests, Some(("k", decision.as_ref()))).map_err(|error| error.to_string())?;
    Ok(chosen.map(|manifest| manifest.epoch))
}

#[test]
fn without_a_decider_the_newest_counts() {
    let manifests = [manifest(3, 3, false), manifest(4, 3, false)];
    assert_eq!(choose(&manifests, None).unwrap().map(|manifest| manifest.epoch), Some(4));
    assert_eq!(choose(&[], None).unwrap().map(|manifest| manifest.epoch), None);
    let refused = choose(&[manifest(4, 4, true)], None).unwrap_err().to_string();
    assert!(refused.contains("decided by the sink k"), "{refused}");
}

#[test]
fn with_one_its_decision_counts() {
    let proposals = [manifest(3, 3, true), manifest(4, 4, true)];
    assert_eq!(chosen(&proposals, Some(3)), Ok(Some(3)));
    assert_eq!(chosen(&proposals, Some(4)), Ok(Some(4)));
    // Nothing was decided, so nothing that is only proposed counts.
    assert_eq!(chosen(&proposals, None), Ok(None));
    // A takeover copies what counts; the copy is newer and the same.
    let copied = [manifest(3, 3, true), manifest(4, 4, true), manifest(5, 3, true)];
    assert_eq!(chosen(&copied, Some(3)), Ok(Some(5)));
    // The sink is new in the pipeline.
    assert_eq!(chosen(&[manifest(7, 7, false), manifest(8, 8, true)], None), Ok(Some(7)));
}

#[test]
fn a_store_and_a_sink_that_do_not_belong_together_are_refused() {
    let refused = chosen(&[manifest(3, 3, true)], Some(9)).unwrap_err();
    assert!(refused.contains("epoch 9 was decided, and that is none of these"), "{refused}");
    let refused = chosen(&[], Some(9)).unwrap_err();
    assert!(refused.contains("epoch 9 was decided"), "{refused}");
    let mut later = manifest(4, 4, true);
    later.seen = Some(decision(3));
    for decided in [None, Some(2)] {
        let refused = chosen(&[manifest(3, 3, true), later.clone()], decided).unwrap_err();
        assert!(refused.contains("does not know any more that epoch 3"), "{refused}");
    }
    assert_eq!(chosen(&[manifest(3, 3, true), later], Some(3)), Ok(Some(3)));
}

#[test]
fn what_was_forgotten_does_not_count() {
    let mut anew = manifest(10, 0, false);
    anew.forgotten = Some(decision(9));
    assert_eq!(chosen(std::slice::from_ref(&anew), Some(9)), Ok(Some(10)));
    let mut first = manifest(11, 11, true);
    first.forgotten = Some(decision(9));
    assert_eq!(chosen(&[anew.clone(), first.clone()], Some(9)), Ok(Some(10)));
    assert_eq!(chosen(&[anew, first], Some(11)), Ok(Some(11)));
}
