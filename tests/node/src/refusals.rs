//! What is wrong is refused by name, and changes nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Client;
use crate::{Outcome, Test};

/// In their order.
pub(crate) const TESTS: [Test; 4] = [
    ("who has no right is refused", rights),
    ("what is wrong is refused by name", wrong),
    ("half-sent requests are not waited for", half_sent),
    ("nothing has changed", nothing_has_changed),
];

/// A request that is wrong: its method, path and body, the status, the reason, and what its message names.
type Wrong = (&'static str, &'static str, Value, u16, &'static str, &'static str);

fn all() -> Vec<Wrong> {
    let vm = |description: Value| json!({ "name": "bad", "description": description });
    let kernel = "/data/images/none";
    vec![
        ("GET", "/v1/nonsense", Value::Null, 404, "not_found", "/v1/nonsense"),
        ("DELETE", "/v1/node", Value::Null, 405, "invalid", "DELETE"),
        ("GET", "/v1/vms/none", Value::Null, 404, "not_found", "none"),
        ("GET", "/v1/vms/No%20Name", Value::Null, 400, "invalid", "No Name"),
        ("GET", "/v1/vms/..%2f..%2fetc", Value::Null, 400, "invalid", "../../etc"),
        ("DELETE", "/v1/vms/none", Value::Null, 404, "not_found", "none"),
        ("POST", "/v1/vms/none/start", Value::Null, 404, "not_found", "none"),
        ("POST", "/v1/vms/none/explode", Value::Null, 404, "not_found", "explode"),
        ("PUT", "/v1/vms/none", json!({ "kernel": "k" }), 404, "not_found", "none"),
        ("POST", "/v1/vms", json!("text"), 400, "invalid", "body"),
        ("POST", "/v1/vms", json!({ "name": "bad" }), 400, "invalid", "description"),
        (
            "POST",
            "/v1/vms",
            json!({ "name": "../x", "description": { "kernel": kernel } }),
            400,
            "invalid",
            "../x",
        ),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "cpu": 2 })), 400, "invalid", "cpu"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "cpus": 0 })), 400, "invalid", "cpus"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "memory": "lots" })), 400, "invalid", "lots"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "memory": "1K" })), 400, "invalid", "memory"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel })), 422, "file", kernel),
        ("POST", "/v1/vms", vm(json!({ "kernel": "/etc/passwd" })), 400, "invalid", "/etc/passwd"),
        ("POST", "/v1/vms", vm(json!({ "kernel": "../../x" })), 400, "invalid", "../../x"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "version": 9 })), 400, "invalid", "version"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "pin": "9-1" })), 400, "invalid", "9-1"),
        ("POST", "/v1/vms", vm(json!({ "kernel": kernel, "weight": 0 })), 400, "invalid", "weight"),
        ("POST", "/v1/vms", vm(json!({ "cpus": 1 })), 400, "invalid", "kernel"),
        (
            "POST",
            "/v1/vms",
            vm(
                json!({ "disks": [{ "file": "a", "format": "qcow2", "backing": "../b", "backing_format": "raw" }] }),
            ),
            400,
            "invalid",
            "../b",
        ),
        ("DELETE", "/v1/images/none", Value::Null, 404, "not_found", "none"),
        ("DELETE", "/v1/images/.hidden", Value::Null, 400, "invalid", ".hidden"),
        ("GET", "/v1/tasks/999999", Value::Null, 404, "not_found", "999999"),
        ("GET", "/v1/tasks/many", Value::Null, 400, "invalid", ""),
        ("POST", "/v1/access", json!({ "name": "first" }), 409, "name_taken", "first"),
        ("POST", "/v1/access", json!({ "name": "x", "rights": "some" }), 400, "invalid", "some"),
        ("DELETE", "/v1/access/first", Value::Null, 409, "in_use", "first"),
        ("DELETE", "/v1/access/none", Value::Null, 404, "not_found", "none"),
        ("POST", "/v1/node/power", json!("explode"), 400, "invalid", "explode"),
        ("GET", "/v1/vms/none/console", Value::Null, 400, "", ""),
    ]
}

fn wrong(client: &Client) -> Outcome {
    for (method, path, body, wanted, reason, names) in all() {
        let (status, answer) = client.ask(method, path, (!body.is_null()).then_some(body))?;
        let message = answer["message"].as_str().unwrap_or_default();
        let is_it = status == wanted && (reason.is_empty() || answer["reason"] == reason);
        if !is_it || !message.contains(names) {
            return Err(format!("{method} {path}: {status}, not {wanted} {reason} with {names}: {answer}"));
        }
    }
    let large = vec![b' '; 300 << 10];
    let (status, answer) = client.ask_as(Some(&client.token), "POST", "/v1/vms", large)?;
    if status == 413 { Ok(()) } else { Err(format!("a large body: {status}: {answer}")) }
}

fn rights(client: &Client) -> Outcome {
    for token in [None, Some("wrong"), Some("")] {
        let (status, answer) = client.ask_as(token, "GET", "/v1/node", None)?;
        if status != 401 || answer["reason"] != "unauthorized" {
            return Err(format!("token {token:?}: {status}: {answer}"));
        }
    }
    let made: Value =
        client.done("POST", "/v1/access", Some(json!({ "name": "eve", "rights": "read-only" })))?;
    let eve = made["secret"].as_str().ok_or("there is no secret")?;
    for (method, path, wanted) in [
        ("GET", "/v1/node", 200),
        ("POST", "/v1/node/power", 403),
        ("DELETE", "/v1/access/first", 403),
        ("GET", "/v1/vms/none/console", 403),
    ] {
        let (status, answer) = client.ask_as(Some(eve), method, path, None)?;
        if status != wanted {
            return Err(format!("{method} {path} of who may only read: {status}: {answer}"));
        }
    }
    client.done::<Value>("DELETE", "/v1/access/eve", None)?;
    let (status, _) = client.ask_as(Some(eve), "GET", "/v1/node", None)?;
    if status != 401 {
        return Err(format!("a token that was deleted: {status}"));
    }
    let refused = (0..40).map(|_| client.ask_as(Some("wrong"), "GET", "/v1/node", None));
    let statuses = refused.map(|answer| Ok(answer?.0)).collect::<Result<Vec<_>, String>>()?;
    let (status, _) = client.ask("GET", "/v1/node", None)?;
    match statuses.contains(&429) && status == 200 {
        true => Ok(()),
        false => Err(format!("refusals are not limited, or shut others out: {statuses:?}, {status}")),
    }
}

/// Whoever sends half of something, or nothing, is let go, and others are served meanwhile.
fn half_sent(client: &Client) -> Outcome {
    let address = client.node.strip_prefix("https://").ok_or("it is not reached by TLS")?;
    let told = |error: std::io::Error| error.to_string();
    let mut silent = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(address).map_err(told)?;
        if number % 2 == 0 {
            // The beginning of a handshake (RFC 8446, "Record Layer").
            stream.write_all(&[22, 3, 1, 2, 0, 1, 0]).map_err(told)?;
        }
        silent.push(stream);
    }
    let (status, answer) = client.ask("GET", "/v1/node", None)?;
    if status != 200 {
        return Err(format!("others are not served: {status}: {answer}"));
    }
    let mut last = silent.pop().ok_or("there is none")?;
    last.set_read_timeout(Some(Duration::from_secs(90))).map_err(told)?;
    // Closed or reset: both are an end.
    match last.read(&mut [0; 64]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("a silent one is not let go: {other:?}")),
    }
}

fn nothing_has_changed(client: &Client) -> Outcome {
    let vms: Vec<Value> = client.get("/v1/vms")?;
    let images: Vec<Value> = client.get("/v1/images")?;
    let tokens: Vec<Value> = client.get("/v1/access")?;
    match (vms.len(), images.len(), tokens.len()) {
        (0, 0, 1) => Ok(()),
        _ => Err(format!("VMs {vms:?}, images {images:?}, tokens {tokens:?}")),
    }
}
