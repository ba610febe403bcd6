//! What both engines need before they can be asked: a request within bounds,
//! about a known operation, a fitting target and a known profile.

use crate::decide::Policy;
use crate::guardrail::is_too_deep;
use crate::operation::Operation;
use crate::profile::Profile;
use crate::reason::Reason;
use crate::request::{Request, Target, TextFormat};

/// Most texts in one request.
pub const MAX_TEXTS: usize = 512;
/// Most bytes of all texts of a request together.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Longest identifier or target. A command line counts as a text instead.
pub const MAX_IDENTIFIER_BYTES: usize = 4 << 10;

/// Operation and profile of a request, or why there are none. The profile's
/// trust goes with a denial where it is known.
pub(crate) fn resolve<'a>(policy: &'a Policy, request: &Request) -> Result<(&'a Operation, &'a Profile), (Reason, u8)> {
    within_bounds(request).map_err(|reason| (reason, 0))?;
    let operation = policy.operations.get(&request.operation).ok_or((Reason::UnknownOperation, 0))?;
    let profile = policy.profiles.get(&request.principal.profile);
    let trust = profile.map_or(0, |profile| trust(request, profile));
    if request.target.kind() != operation.info.target {
        // A suspended agent hears that it is suspended, whatever it asks for.
        let suspended = profile.is_some() && trust == 0;
        return Err((if suspended { Reason::Suspended } else { Reason::WrongTarget }, trust));
    }
    Ok((operation, profile.ok_or((Reason::UnknownProfile, 0))?))
}

/// The trust of a caller: its profile's, or none while it is suspended.
///
/// TRUST: guardrails are given what this says and nothing else; a request has no trust of its own.
pub(crate) fn trust(request: &Request, profile: &Profile) -> u8 {
    if request.principal.suspended { 0 } else { profile.info.trust_level }
}

fn within_bounds(request: &Request) -> Result<(), Reason> {
    let principal = &request.principal;
    let target = match &request.target {
        Target::Command(_) => "",
        target => target.id(),
    };
    let task_type = match &request.target {
        Target::Task(task) => &task.task_type,
        _ => "",
    };
    let identifiers = [&principal.agent_id, &principal.agent_type, &principal.profile, &request.operation];
    let labels = request.texts.iter().map(|text| text.label.as_str());
    let longest = identifiers.into_iter().map(String::as_str).chain([target, task_type]).chain(labels);
    if longest.map(str::len).any(|length| length > MAX_IDENTIFIER_BYTES) {
        return Err(Reason::RequestTooLarge);
    }
    let command = match &request.target {
        Target::Command(line) => line.len(),
        _ => 0,
    };
    let bytes = request.texts.iter().fold(command, |sum, text| sum.saturating_add(text.body.len()));
    if request.texts.len() > MAX_TEXTS || bytes > MAX_TEXT_BYTES {
        return Err(Reason::RequestTooLarge);
    }
    let mut documents = request.texts.iter().filter(|text| text.format == TextFormat::Json);
    if documents.any(|text| is_too_deep(&text.body)) {
        return Err(Reason::RequestTooComplex);
    }
    Ok(())
}
