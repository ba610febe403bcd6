use super::*;
use serde_json::json;

const FIELDS: &[Field] =
    &[FILE_PATH, TTL_MINUTES, AGENT_ID, Field::new("data", Kind::Object, ""), Field::new("ids", Kind::Uuids(2), "")];

fn read(value: &Value) -> Result<Input> {
    Input::read(FIELDS, value.as_object().unwrap(), Place::Body)
}

#[test]
fn nulls_unknown_fields_and_empty_ids_are_absent() {
    let input = read(&json!({"file_path": "a", "ttl_minutes": null, "agent_id": "", "zzz": 1})).unwrap();
    assert_eq!(input.to_json(), json!({"file_path": "a", "ttl_minutes": 30}));
}

#[test]
fn every_problem_is_told_with_its_place_and_code() {
    let Err(Error::Invalid(problems)) = read(&json!({"ttl_minutes": 481, "data": [], "ids": ["x"]})) else { panic!() };
    let told: Vec<_> = problems.iter().map(|p| (p.loc.join("."), p.kind.as_str())).collect();
    assert_eq!(
        told,
        [
            ("body.file_path".to_owned(), "missing"),
            ("body.ttl_minutes".to_owned(), "ttl_out_of_range"),
            ("body.data".to_owned(), "dict_type"),
            ("body.ids".to_owned(), "uuid_parsing"),
        ]
    );
}

#[test]
fn numbers_too_large_are_out_of_range_and_text_numbers_are_numbers() {
    for ttl in [json!(1e300), json!(u64::MAX), json!(0), json!(-1), json!("999")] {
        let Err(Error::Invalid(problems)) = read(&json!({"file_path": "a", "ttl_minutes": ttl})) else { panic!() };
        assert_eq!(problems[0].kind, "ttl_out_of_range");
    }
    assert_eq!(read(&json!({"file_path": "a", "ttl_minutes": "45"})).unwrap().int("ttl_minutes"), 45);
    assert!(read(&json!({"file_path": "a", "ttl_minutes": 1.5})).is_err());
}

#[test]
fn of_a_secret_only_a_mark_is_shown() {
    const SECRET: &[Field] = &[Field::new("hash", Kind::Text(100), "").secret()];
    let read = |text: &str| {
        let map = json!({ "hash": text }).as_object().unwrap().clone();
        Input::read(SECRET, &map, Place::Body).unwrap()
    };
    let (one, other) = (read("correct horse"), read("battery staple"));
    assert_eq!(one.text("hash"), "correct horse");
    assert_eq!(one.to_json()["hash"].as_str().unwrap().len(), "mark:0000".len());
    assert_ne!(one.to_json(), other.to_json());
}

#[test]
fn deep_json_is_refused_without_recursion() {
    let mut value = json!({});
    for _ in 0..100 {
        value = json!({ "x": value });
    }
    assert!(read(&json!({"file_path": "a", "data": value})).is_err());
    assert!(read(&json!({"file_path": "a", "data": {"x": "a\u{0}b"}})).is_err());
}
