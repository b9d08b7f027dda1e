//! Which checkpoint a pipeline goes on from: a pure function of what is in the store and of what a sink
//! that decides has decided.
//!
//! Without such a sink the newest manifest counts because it is there. With one, manifests are proposals,
//! and the one its last commit names counts: an older one would deliver twice what was committed after
//! it, and a newer one would pass over what never was.

use weir_base::ErrorKind;
use weir_component::sink::Decision;

use crate::error::JobError;
use crate::manifest::Manifest;

/// The manifest to go on from, out of all that are in the store; `None`: nothing was ever decided.
///
/// `decider` is the sink that decides and its newest decision.
///
/// # Errors
/// If the store and the sink do not belong together.
pub(crate) fn choose<'a>(
    manifests: &'a [Manifest],
    decider: Option<(&str, Option<&Decision>)>,
) -> Result<Option<&'a Manifest>, JobError> {
    let newest = |wanted: &dyn Fn(&Manifest) -> bool| {
        manifests.iter().filter(|manifest| wanted(manifest)).max_by_key(|manifest| manifest.epoch)
    };
    let Some((sink, decision)) = decider else {
        let newest = newest(&|_| true);
        return match newest.and_then(|manifest| manifest.decided_by.as_deref()) {
            None => Ok(newest),
            Some(sink) => {
                let reason = format!("what counts was decided by the sink {sink}, which does not decide any more");
                Err(JobError::Changed { reason })
            }
        };
    };
    let latest = |of: fn(&Manifest) -> Option<&Decision>| manifests.iter().filter_map(of).max_by_key(|it| it.epoch);
    let forgotten = latest(|manifest| manifest.forgotten.as_ref());
    let seen = latest(|manifest| manifest.seen.as_ref());
    let lost = |message: String| Err(JobError::Checkpoint { kind: ErrorKind::Conflict, message });
    let decision = decision.filter(|decision| forgotten != Some(*decision));
    if let Some(seen) = seen
        && forgotten.is_none_or(|forgotten| forgotten.epoch < seen.epoch)
        && decision.is_none_or(|decision| decision.epoch < seen.epoch)
    {
        return lost(format!(
            "the sink {sink} does not know any more that epoch {} was decided; is it another one, or was its \
             record of progress lost? beginning anew delivers everything again",
            seen.epoch
        ));
    }
    let Some(decision) = decision else {
        return Ok(newest(&|manifest| manifest.decided_by.is_none()));
    };
    match newest(&|manifest| manifest.decided_by.is_some() && manifest.decision() == *decision) {
        Some(manifest) => Ok(Some(manifest)),
        None => lost(format!(
            "the sink {sink} says that epoch {} was decided, and that is none of these checkpoints; give the \
             pipeline the checkpoints it ran with, or begin anew, which delivers everything again",
            decision.epoch
        )),
    }
}

#[cfg(test)]
mod tests;
