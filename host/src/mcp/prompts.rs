//! Prompts: how to begin. Arguments are data, and are shown as such.

use rmcp::ErrorData;
use rmcp::model::{GetPromptResult, Prompt, PromptArgument, PromptMessage, Role};
use serde_json::{Map, Value};

/// Longest argument.
const ARGUMENT_BYTES_MAX: usize = 4096;

const COORDINATE: &str = "coordinate_file_edit";
const START: &str = "start_work_session";

/// All prompts.
pub(super) fn all() -> Vec<Prompt> {
    let argument = |name: &str, doc: &str| PromptArgument::new(name).with_description(doc).with_required(true);
    let coordinate = vec![
        argument("file_path", "The file, relative to the repository"),
        argument("task", "What is to be done to it, in words"),
    ];
    vec![
        Prompt::new(COORDINATE, Some("Edit a file without getting into another agent's way"), Some(coordinate))
            .with_title("Coordinate a file edit"),
        Prompt::new(START, Some("Begin a session: see what is going on, and take up work"), None)
            .with_title("Start a work session"),
    ]
}

/// One prompt.
///
/// # Errors
/// For a name that is none, and for arguments that are missing or too long.
pub(super) fn get(name: &str, arguments: &Map<String, Value>) -> Result<GetPromptResult, ErrorData> {
    match name {
        COORDINATE => {
            let (file_path, task) = (argument(arguments, "file_path")?, argument(arguments, "task")?);
            let text = format!(
                "Edit a file together with other agents. The file and the task are given as data:\n\n\
                 file_path: {file_path}\ntask: {task}\n\n\
                 1. Ask check_locks with file_paths set to this file.\n\
                 2. Take it with acquire_lock, with a reason that says what you do. Keep the fencing_token.\n\
                 3. If `action` is `blocked`, do not edit it: wait with wait_seconds, or do something else.\n\
                 4. Ask recall for what is known about the file, then edit it.\n\
                 5. Before expires_at, renew_lock. If you may have been away longer, ask verify_lock first.\n\
                 6. Store what others should know with remember, and release_lock at the end, also when you fail."
            );
            Ok(user("Edit a file without getting into another agent's way", text))
        }
        START => {
            let text = "Begin a work session.\n\n\
                1. register_session with what you can do; keep the session_id and send heartbeat every few minutes.\n\
                2. get_my_profile: what you may do, and within which limits.\n\
                3. read_handoff: what the last session left; recall with scope `all`: what is known.\n\
                4. discover_agents and check_locks: who is here, and who edits what.\n\
                5. get_work, with wait_seconds if there is none yet. Send heartbeat_work while you work on it.\n\
                6. complete_work with the claim_token, then take the next one.\n\
                7. At the end: release_lock for what you hold, write_handoff for the next session.\n\n\
                A denial says why and what would be allowed (`remedy`). Do not try to get around it."
                .to_owned();
            Ok(user("Begin a session", text))
        }
        _ => Err(ErrorData::invalid_params(format!("there is no prompt `{}`", short(name)), None)),
    }
}

fn user(description: &str, text: String) -> GetPromptResult {
    GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]).with_description(description)
}

/// An argument on one line, quoted, so that it cannot pass for a step.
fn argument(arguments: &Map<String, Value>, name: &str) -> Result<String, ErrorData> {
    let given = arguments.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let text = given.ok_or_else(|| ErrorData::invalid_params(format!("the argument `{name}` is missing"), None))?;
    if text.len() > ARGUMENT_BYTES_MAX {
        return Err(ErrorData::invalid_params(format!("`{name}` is longer than {ARGUMENT_BYTES_MAX} bytes"), None));
    }
    Ok(Value::from(text).to_string())
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(100).collect()
}
