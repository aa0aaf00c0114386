//! As much of JSON Schema as the document uses; what it does not know fails the test.

use serde_json::{Map, Value};

/// Why the value is not as the schema says.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Value::Object(rules) = schema else { return Err(format!("no schema: {schema}")) };
    for (rule, wanted) in rules {
        let holds = match (rule.as_str(), value) {
            ("description" | "default", _) => true,
            ("$ref", _) => {
                check(document, resolve(document, wanted), value)?;
                true
            }
            ("oneOf", _) => {
                let all = wanted.as_array().expect("an array");
                all.iter().filter(|one| check(document, one, value).is_ok()).count() == 1
            }
            ("type", _) => is_type(wanted, value),
            ("enum", _) => wanted.as_array().expect("an array").contains(value),
            ("minimum", Value::Number(number)) => number.as_f64() >= wanted.as_f64(),
            ("maximum", Value::Number(number)) => number.as_f64() <= wanted.as_f64(),
            ("minLength", Value::String(text)) => text.chars().count() as u64 >= number(wanted),
            ("maxLength", Value::String(text)) => text.chars().count() as u64 <= number(wanted),
            ("maxItems", Value::Array(items)) => items.len() as u64 <= number(wanted),
            ("pattern", Value::String(text)) => !text.is_empty() && !text.contains(char::is_control),
            ("contentEncoding", Value::String(_)) => true,
            ("items", Value::Array(items)) => {
                items.iter().try_for_each(|item| check(document, wanted, item))?;
                true
            }
            ("properties", Value::Object(members)) => {
                members_of(document, wanted, members)?;
                true
            }
            ("required", Value::Object(members)) => {
                let names = wanted.as_array().expect("an array").iter();
                names.map(|name| name.as_str().expect("a name")).all(|name| members.contains_key(name))
            }
            ("additionalProperties", Value::Object(members)) => {
                let known = schema["properties"].as_object();
                let more = members.iter().filter(|(name, _)| !known.is_some_and(|known| known.contains_key(*name)));
                match wanted {
                    Value::Bool(allowed) => *allowed || more.count() == 0,
                    wanted => {
                        more.map(|(_, value)| value).try_for_each(|value| check(document, wanted, value))?;
                        true
                    }
                }
            }
            (
                "minimum"
                | "maximum"
                | "minLength"
                | "maxLength"
                | "maxItems"
                | "pattern"
                | "contentEncoding"
                | "items"
                | "properties"
                | "required"
                | "additionalProperties",
                _,
            ) => true,
            (unknown, _) => panic!("this test does not know {unknown}"),
        };
        if !holds {
            return Err(format!("{value} against {rule}: {wanted}"));
        }
    }
    Ok(())
}

fn members_of(document: &Value, schemas: &Value, members: &Map<String, Value>) -> Result<(), String> {
    let schemas = schemas.as_object().expect("an object");
    let described = members.iter().filter_map(|(name, value)| Some((name, schemas.get(name)?, value)));
    for (name, schema, value) in described {
        check(document, schema, value).map_err(|fault| format!("{name}: {fault}"))?;
    }
    Ok(())
}

/// What a reference of the document means.
pub(crate) fn resolve<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference within the document");
    document.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"))
}

fn is_type(wanted: &Value, value: &Value) -> bool {
    match wanted {
        Value::Array(any) => any.iter().any(|one| is_type(one, value)),
        Value::String(name) => match name.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            unknown => panic!("this test does not know the type {unknown}"),
        },
        other => panic!("no type: {other}"),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}
