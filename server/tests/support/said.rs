//! What a program that has ended said.

use serde_json::Value;
use std::process::Output;

/// Its output, where it ended with `code`.
#[track_caller]
pub(crate) fn said(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}\n{err}");
    text
}

/// The same, as JSON.
#[track_caller]
pub(crate) fn json(output: &Output, code: i32) -> Value {
    serde_json::from_str(&said(output, code)).unwrap()
}
