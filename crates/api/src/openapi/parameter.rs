//! The parameters of each operation: of its path, its query and its headers.

use serde_json::{Value, json};

use crate::{BuildOperation, ImageOperation, Operation};

pub(super) fn parameters(path: &str, operation: Operation) -> Value {
    let mut parameters: Vec<_> = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"},
                "description": path_parameter(name)})
        })
        .collect();
    let mut query = |name: &str, text: &str, schema: Value| {
        let parameter = json!({"name": name, "in": "query", "required": false, "schema": schema,
            "description": text});
        parameters.push(parameter);
    };
    if matches!(operation, Operation::SandboxList | Operation::ArchivedSandboxList) {
        let limit = "At most so many; above 1000 counts as 1000; absent = all, up to 10000.";
        query("limit", limit, json!({"type": "integer", "minimum": 1}));
        query("cursor", "A cursor from an earlier page.", json!({"type": "string"}));
        let ways = json!({"type": "string", "enum": ["forward", "backward"]});
        query("direction", "Toward older or newer sandboxes.", ways);
        let words = tarn_types::SandboxStatus::ALL.map(tarn_types::SandboxStatus::as_str);
        query("status", "Only those with this status.", json!({"type": "string", "enum": words}));
    }
    if operation == Operation::AdminSandboxList {
        let text = "Those in the archive instead of the others.";
        query("archived", text, json!({"type": "boolean"}));
    }
    if operation == Operation::SecretList {
        let size = "At most so many; above 1000 counts as 1000; absent = 1000.";
        query("pageSize", size, json!({"type": "integer", "minimum": 1}));
        query("next", "The page after that of an earlier answer.", json!({"type": "string"}));
        query("prev", "The page before it.", json!({"type": "string"}));
    }
    let size = "At most so many; above 1000 counts as 1000; absent = 1000.";
    if operation == Operation::Image(ImageOperation::CasList) {
        query("page_size", size, json!({"type": "integer", "minimum": 1}));
        query("cursor", "`pagination.next` of an earlier page.", json!({"type": "string"}));
    }
    if operation == Operation::Image(ImageOperation::TemplateList) {
        query("pageSize", size, json!({"type": "integer", "minimum": 1}));
        query("next", "The place in the path of an earlier page.", json!({"type": "string"}));
    }
    if operation == Operation::LogList {
        let whole = || json!({"type": "integer", "minimum": 1});
        let list = |items: Value| json!({"type": "array", "items": items});
        let level = json!({"type": "integer", "minimum": 1, "maximum": 6});
        query("level", "One of these levels; repeat it for several.", list(level));
        let process = "Of one of these processes; repeat it for several.";
        query("processId", process, list(json!({"type": "string"})));
        query("body", "With this text in the line.", json!({"type": "string"}));
        query("head", "Only the first so many; not with `tail`.", whole());
        query("tail", "Only the last so many; not with `head`.", whole());
        let token =
            "A token from an earlier page, which then goes on; `head` and `tail` are in it.";
        query("nextToken", token, json!({"type": "string"}));
    }
    if matches!(
        operation,
        Operation::SandboxSuspend
            | Operation::SandboxResume
            | Operation::AdminSandboxSuspend
            | Operation::AdminSandboxResume
    ) {
        let text = "For how many milliseconds the answer may wait for the sandbox; absent = 0.";
        query("wait_ms", text, json!({"type": "integer", "minimum": 0}));
    }
    if operation == Operation::Build(BuildOperation::Upload) {
        query("token", "What the upload URL came with.", json!({"type": "string"}));
    }
    if operation == Operation::AdminSandboxNetwork {
        query("denied", "Only what was denied.", json!({"type": "boolean"}));
        let whole = json!({"type": "integer", "minimum": 0});
        query("since_secs", "Only what happened so many seconds until now.", whole);
    }
    if matches!(operation, Operation::SandboxCopy | Operation::AdminSandboxCopy) {
        let text = "How many copies; absent = 1.";
        query("times", text, json!({"type": "integer", "minimum": 1}));
    }
    if matches!(operation, Operation::SandboxCreate | Operation::SandboxCopy | Operation::PoolClaim)
    {
        let milliseconds = || json!({"type": "integer", "minimum": 0});
        for (name, text) in [
            ("X-Tensorlake-Request-Timeout-Ms", "The caller's budget; absent = hold at most 30 s."),
            ("X-Tensorlake-Request-Timeout-Grace-Ms", "Answer so long before the budget ends."),
        ] {
            parameters.push(json!({"name": name, "in": "header", "required": false,
                "schema": milliseconds(), "description": text}));
        }
    }
    Value::Array(parameters)
}

fn path_parameter(name: &str) -> &'static str {
    match name {
        "ns" => "`default` (the key's own project), or the name or id of that project.",
        "sid" => "The sandbox's id or name.",
        "o" => "The organization's id.",
        "p" => "The project's id.",
        "name" => "The name.",
        _ => "The id.",
    }
}
