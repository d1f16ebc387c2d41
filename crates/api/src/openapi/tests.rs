use std::collections::BTreeSet;

use super::*;

fn document() -> Value {
    serde_json::from_str(&openapi_json()).expect("the document is JSON")
}

/// Calls `visit` with every `$ref` below a value.
fn references(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(target) if key == "$ref" => visit(target),
                    Some(_) | None => references(value, visit),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let mut used = BTreeSet::new();
    references(&document, &mut |target| {
        let path = target.strip_prefix('#').expect("references stay in the document");
        assert!(document.pointer(path).is_some(), "{target}");
        used.insert(target.to_owned());
    });
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for name in schemas.keys() {
        assert!(used.contains(&format!("#/components/schemas/{name}")), "{name} is never used");
    }
}

#[test]
fn operation_ids_are_unique() {
    let document = document();
    let mut seen = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(seen.insert(id.to_owned()), "{method} {path}: {id} is there twice");
        }
    }
}

#[test]
fn the_schema_of_a_sandbox_has_the_keys_of_its_bytes() {
    let document = document();
    let properties = document
        .pointer("/components/schemas/SandboxInfo/properties")
        .and_then(Value::as_object)
        .expect("properties");
    for key in ["id", "namespace", "status", "resources", "sandbox_url", "archived_at"] {
        assert!(properties.contains_key(key), "{key}");
    }
    assert!(!properties.contains_key("sandbox_id"));
}

/// `cargo xtask openapi` writes the file.
#[test]
fn the_committed_document_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let committed = std::fs::read_to_string(path).expect("docs/openapi.json is committed");
    assert!(committed == openapi_json(), "run `cargo xtask openapi` and commit docs/openapi.json");
}
