//! `GET /metrics`: what the node and its VMs do, in the text format of Prometheus ("Exposition formats").

use std::fmt::Write;

use api::node::Node;
use api::status::{State as VmState, VmDetails};
use api::{Error, Reason};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::de::DeserializeOwned;

use super::answer::Refusal;
use super::control::Control;
use crate::operation::Operation;

const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Tells all counters
///
/// In the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "node",
    responses((status = 200, description = "Lines of metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn tell(State(control): State<Control>) -> Result<impl IntoResponse, Refusal> {
    let node: Node = read(control.ask(Operation::Node).await?)?;
    let vms: Vec<VmDetails> = read(control.ask(Operation::Counters).await?)?;
    Ok(([(header::CONTENT_TYPE, KIND)], page(&node, &vms)))
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::new(Reason::Failed, error))
}

/// A page of metrics in the making.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A metric: its samples follow.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample. What stands in labels here are names, which need no escapes, but for what files are called.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

/// A counter of VMs: its name, its help, and what it is.
type PerVm = (&'static str, &'static str, &'static str, fn(&VmDetails) -> Option<f64>);

const PER_VM: [PerVm; 6] = [
    ("basalt_vm_up", "gauge", "1 where the VM runs", |vm| {
        Some(f64::from(u8::from(vm.vm.state == VmState::Running)))
    }),
    ("basalt_vm_cpus", "gauge", "Virtual CPUs", |vm| Some(vm.vm.cpus.into())),
    ("basalt_vm_cpu_seconds_total", "counter", "CPU time since the VM was started", |vm| {
        Some(vm.counters.as_ref()?.cpu_seconds)
    }),
    (
        "basalt_vm_steal_seconds_total",
        "counter",
        "Time for which the VM was ready to run and had no CPU",
        |vm| Some(vm.counters.as_ref()?.steal_seconds),
    ),
    ("basalt_vm_memory_bytes", "gauge", "Memory of the VM", |vm| Some(vm.vm.memory.0 as f64)),
    ("basalt_vm_resident_bytes", "gauge", "Memory that the VM has at present", |vm| {
        Some(vm.counters.as_ref()?.resident_bytes as f64)
    }),
];

type PerPort = (&'static str, &'static str, fn(&api::status::NetworkCounters) -> u64);

const PER_PORT: [PerPort; 5] = [
    ("basalt_port_sent_bytes_total", "Bytes that the VM has sent", |port| port.sent_bytes),
    ("basalt_port_sent_frames_total", "Frames that the VM has sent", |port| port.sent_frames),
    ("basalt_port_received_bytes_total", "Bytes that the VM was given", |port| port.received_bytes),
    ("basalt_port_received_frames_total", "Frames that the VM was given", |port| port.received_frames),
    ("basalt_port_lost_frames_total", "Frames lost on the port's account", |port| port.lost_frames),
];

type PerDisk = (&'static str, &'static str, fn(&api::status::DiskCounters) -> u64);

const PER_DISK: [PerDisk; 4] = [
    ("basalt_disk_reads_total", "Reads that are done", |disk| disk.reads),
    ("basalt_disk_writes_total", "Writes that are done", |disk| disk.writes),
    ("basalt_disk_read_bytes_total", "Bytes read", |disk| disk.read_bytes),
    ("basalt_disk_written_bytes_total", "Bytes written", |disk| disk.written_bytes),
];

fn page(node: &Node, vms: &[VmDetails]) -> String {
    let mut page = Page::default();
    page.metric("basalt_node_info", "gauge", "The node");
    page.sample("basalt_node_info", &[("name", &node.name), ("version", &node.version)], 1);
    for (name, help, value) in [
        ("basalt_node_ready", "1 when the node has found all that it looks for", u64::from(node.ready)),
        ("basalt_node_uptime_seconds", "Seconds since the node has started", node.uptime),
        ("basalt_node_cpus", "CPUs on which VMs run", node.cpus.into()),
        ("basalt_node_free_memory_bytes", "Memory that VMs can still have", node.free_memory_bytes),
        (
            "basalt_node_processes_memory_bytes",
            "Memory that the processes of dom0 have",
            node.processes_memory_bytes,
        ),
        ("basalt_node_complaints", "What is wrong with the node", node.complaints.len() as u64),
    ] {
        page.metric(name, "gauge", help);
        page.sample(name, &[], value);
    }
    for (name, kind, help, of) in PER_VM {
        page.metric(name, kind, help);
        for vm in vms {
            of(vm).into_iter().for_each(|value| page.sample(name, &[("vm", vm.vm.name.as_str())], value));
        }
    }
    let counted = || vms.iter().filter_map(|vm| Some((vm.vm.name.as_str(), vm.counters.as_ref()?)));
    page.metric("basalt_vm_exits_total", "counter", "Exits of the VM by reason");
    for (vm, counters) in counted() {
        for exits in &counters.exits {
            page.sample("basalt_vm_exits_total", &[("vm", vm), ("reason", &exits.reason)], exits.count);
        }
    }
    for (name, help, of) in PER_PORT {
        page.metric(name, "counter", help);
        for (vm, counters) in counted() {
            for (device, port) in counters.networks.iter().enumerate() {
                let labels = [("vm", vm), ("device", &device.to_string()), ("network", &port.network)];
                page.sample(name, &labels, of(port));
            }
        }
    }
    for (name, help, of) in PER_DISK {
        page.metric(name, "counter", help);
        for (vm, counters) in counted() {
            counters
                .disks
                .iter()
                .for_each(|disk| page.sample(name, &[("vm", vm), ("file", &disk.file)], of(disk)));
        }
    }
    page.0
}

#[cfg(test)]
mod tests {
    use api::status::{Counters, Exits, NetworkCounters, Vm};

    use super::*;

    #[test]
    fn a_page_is_in_the_format() {
        let vm = Vm {
            name: "web".parse().expect("a name"),
            state: VmState::Running,
            reason: None,
            autostart: false,
            own: true,
            cpus: 2,
            memory: api::amount::Bytes(1 << 30),
            load: None,
            addresses: Vec::new(),
        };
        let counters = Counters {
            cpu_seconds: 1.5,
            exits: vec![Exits { reason: "halt".to_owned(), count: 7 }],
            networks: vec![NetworkCounters {
                network: "default".to_owned(),
                sent_bytes: 9,
                ..Default::default()
            }],
            ..Counters::default()
        };
        let node = Node { name: "a\"b".to_owned(), version: "1".to_owned(), ..Node::default() };
        let page = page(&node, &[VmDetails { vm, description: None, counters: Some(counters) }]);
        for line in [
            "basalt_node_info{name=\"a\\\"b\",version=\"1\"} 1",
            "# TYPE basalt_vm_cpu_seconds_total counter",
            "basalt_vm_cpu_seconds_total{vm=\"web\"} 1.5",
            "basalt_vm_exits_total{vm=\"web\",reason=\"halt\"} 7",
            "basalt_port_sent_bytes_total{vm=\"web\",device=\"0\",network=\"default\"} 9",
        ] {
            assert!(page.lines().any(|it| it == line), "{line} is not in\n{page}");
        }
    }
}
