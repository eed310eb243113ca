//! The life of a VM, from its image to its end.

use api::image::Image;
use api::node::Node;
use api::status::{State, Vm, VmDetails};
use api::task::{self, Task};
use api::usage::Usage;
use serde_json::{Value, json};

use crate::client::Client;
use crate::{Outcome, Test};

/// In their order.
pub(crate) const TESTS: [Test; 12] = [
    ("a node says how it is", node),
    ("the API describes itself", describes_itself),
    ("images are uploaded", images),
    ("a VM is created, once", create),
    ("a VM starts and says so at its console", start),
    ("a VM is paused and goes on", pause),
    ("a disk's limits change while its VM runs", limits),
    ("counters and metrics count", counters),
    ("what a VM uses is the time that it is there", usage),
    ("dom0 itself is small", is_small),
    ("a VM stops, and can start again", stop),
    ("a VM is deleted, with its images", delete),
];

/// At the end.
pub(crate) const OFF: [Test; 1] = [("a node switches itself off", off)];

const VM: &str = "/v1/vms/web";

fn description() -> Value {
    json!({
        "kernel": "/data/images/kernel",
        "initrd": "/data/images/initrd",
        "command_line": "console=ttyS0",
        "memory": "192M",
        "disks": [{ "file": "root.img", "format": "raw", "size": "16M" }],
    })
}

fn off(client: &Client) -> Outcome {
    let (status, answer) = client.ask("POST", "/v1/node/power", Some(json!("off")))?;
    if status == 204 { Ok(()) } else { Err(format!("{status}: {answer}")) }
}

fn state(client: &Client) -> Result<State, String> {
    Ok(client.get::<VmDetails>(VM)?.vm.state)
}

fn node(client: &Client) -> Outcome {
    let node: Node = client.get("/v1/node")?;
    let is_well = node.ready && node.cpus > 0 && node.free_memory_bytes > 0 && node.data.is_some();
    if is_well && node.complaints.is_empty() { Ok(()) } else { Err(format!("{node:?}")) }
}

fn describes_itself(client: &Client) -> Outcome {
    let openapi: Value = client.get("/v1/openapi.json")?;
    match openapi["paths"].as_object() {
        Some(paths) if paths.contains_key("/v1/vms") => Ok(()),
        _ => Err(format!("{openapi}")),
    }
}

fn images(client: &Client) -> Outcome {
    for (name, file) in [("kernel", &client.kernel), ("initrd", &client.initrd)] {
        let (status, answer) = client.upload(name, file)?;
        let bytes = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
        if status != 201 || answer["bytes"] != bytes {
            return Err(format!("{name}: {status}: {answer}"));
        }
    }
    let images: Vec<Image> = client.get("/v1/images")?;
    if images.len() == 2 { Ok(()) } else { Err(format!("{images:?}")) }
}

fn create(client: &Client) -> Outcome {
    let new = json!({ "name": "web", "description": description() });
    // The second time changes nothing.
    for _ in 0..2 {
        let made: VmDetails = client.done("POST", "/v1/vms", Some(new.clone()))?;
        if made.vm.state != State::Stopped || !made.vm.own {
            return Err(format!("{made:?}"));
        }
    }
    let vms: Vec<Vm> = client.get("/v1/vms")?;
    let ours = vms.iter().filter(|vm| vm.name.as_str() == "web").count();
    if ours == 1 { Ok(()) } else { Err(format!("{vms:?}")) }
}

fn start(client: &Client) -> Outcome {
    client.task("POST", "/v1/vms/web/start")?;
    client.until("a login", |client| {
        let log: String = client.get("/v1/vms/web/log")?;
        Ok(log.contains("basalt-demo login ready"))
    })
}

fn pause(client: &Client) -> Outcome {
    for (act, wanted) in [("pause", State::Paused), ("pause", State::Paused), ("resume", State::Running)] {
        client.task("POST", &format!("{VM}/{act}"))?;
        let state = state(client)?;
        if state != wanted {
            return Err(format!("after {act} it is {state}"));
        }
    }
    Ok(())
}

fn limits(client: &Client) -> Outcome {
    let mut slower = description();
    slower["disks"][0]["iops"] = json!(50);
    slower["disks"][0]["bandwidth"] = json!("1M");
    client.done::<VmDetails>("PUT", VM, Some(slower))?;
    client.until("limits that hold", |client| {
        let tasks: Vec<Task> = client.get("/v1/tasks")?;
        let ours = tasks.iter().find(|task| task.what == "limit disks").ok_or("no task for that")?;
        ours.error.as_ref().map_or(Ok(ours.state == task::State::Done), |error| Err(error.to_string()))
    })
}

fn counters(client: &Client) -> Outcome {
    let details: VmDetails = client.get(VM)?;
    let counters = details.counters.ok_or("there are none")?;
    let exits: u64 = counters.exits.iter().map(|exits| exits.count).sum();
    if exits == 0 || counters.cpu_seconds <= 0.0 || counters.resident_bytes == 0 {
        return Err(format!("{counters:?}"));
    }
    let (_, page) = client.ask("GET", "/metrics", None)?;
    let page = page.as_str().ok_or("there is no page")?.to_owned();
    for line in ["basalt_vm_up{vm=\"web\"} 1", "basalt_node_ready 1"] {
        if !page.lines().any(|it| it == line) {
            return Err(format!("{line} is not in {page}"));
        }
    }
    Ok(())
}

fn usage(client: &Client) -> Outcome {
    let look = || -> Result<(u64, Usage), String> {
        let usage: Vec<Usage> = client.get("/v1/usage")?;
        let node: Node = client.get("/v1/node")?;
        let ours = usage.into_iter().rev().find(|usage| usage.vm.as_str() == "web");
        Ok((node.uptime, ours.ok_or("there is nothing of it")?))
    };
    let (begin, before) = look()?;
    client.until("some time", |_| Ok(look()?.0 >= begin + 10))?;
    let (end, after) = look()?;
    let (passed, seconds) = ((end - begin) as f64, after.seconds - before.seconds);
    let vcpus = after.vcpu_seconds - before.vcpu_seconds;
    // Uptimes are whole seconds, and are told a moment later. In a new hour it begins anew.
    let is_it = (passed - seconds).abs() <= 2.0 && (vcpus - seconds).abs() < 0.01;
    if is_it || after.hour != before.hour {
        Ok(())
    } else {
        Err(format!("{passed} s: {before:?}, {after:?}"))
    }
}

/// All processes of dom0 together: 24 MiB, and 4 MiB for each VM that runs.
fn is_small(client: &Client) -> Outcome {
    let node: Node = client.get("/v1/node")?;
    println!("note dom0's processes have {} KiB, with one VM", node.processes_memory_bytes >> 10);
    let is_it = (1 << 20..=28 << 20).contains(&node.processes_memory_bytes);
    if is_it { Ok(()) } else { Err(format!("{} bytes", node.processes_memory_bytes)) }
}

fn stop(client: &Client) -> Outcome {
    client.task("POST", "/v1/vms/web/stop")?;
    if state(client)? != State::Stopped {
        return Err("it is not stopped".to_owned());
    }
    client.task("POST", "/v1/vms/web/start")?;
    client.task("POST", "/v1/vms/web/start")?;
    client.task("POST", "/v1/vms/web/stop")?;
    Ok(())
}

fn delete(client: &Client) -> Outcome {
    let (status, _) = client.ask("DELETE", "/v1/images/kernel", None)?;
    if status != 409 {
        return Err(format!("an image that a VM uses: {status}"));
    }
    client.task("DELETE", VM)?;
    let (status, _) = client.ask("GET", VM, None)?;
    if status != 404 {
        return Err(format!("it is still there: {status}"));
    }
    for image in ["kernel", "initrd"] {
        let (status, answer) = client.ask("DELETE", &format!("/v1/images/{image}"), None)?;
        if status != 204 {
            return Err(format!("{image}: {status}: {answer}"));
        }
    }
    Ok(())
}
