//! Asks the node.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::task::Task;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, SendBody};

/// A request that takes so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what goes on.
const PACE: Duration = Duration::from_millis(300);

/// The node.
pub(crate) struct Client {
    agent: Agent,
    pub(crate) node: String,
    pub(crate) token: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// What is answered: the status and the body.
pub(crate) type Answer = (u16, Value);

impl Client {
    /// The one of the environment.
    pub(crate) fn from_environment() -> Result<Self, String> {
        let value = |name: &str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("{name} is not set: the node has not told it")),
        };
        // The certificate is the node's own: by its fingerprint it is known to the command `basalt`, which tests that.
        let tls = TlsConfig::builder().disable_verification(true).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            // A node lets connections go on which nothing is asked for ten seconds.
            .max_idle_connections(0)
            .build()
            .new_agent();
        Ok(Self {
            agent,
            node: value("BASALT_NODE")?,
            token: value("BASALT_TOKEN")?,
            kernel: value("BASALT_KERNEL")?.into(),
            initrd: value("BASALT_INITRD")?.into(),
        })
    }

    /// Asks with this token, or none.
    pub(crate) fn ask_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: impl Into<Option<Vec<u8>>>,
    ) -> Result<Answer, String> {
        let url = format!("{}{path}", self.node);
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answered = match body.into() {
            Some(body) => self.agent.run(request.body(body).map_err(told)?),
            None => self.agent.run(request.body(SendBody::none()).map_err(told)?),
        };
        answer(answered.map_err(|error| format!("{method} {path}: {error}"))?)
    }

    /// Asks with the first token.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer, String> {
        self.ask_as(Some(&self.token), method, path, body.map(|body| body.to_string().into_bytes()))
    }

    /// Asks for what is to be done.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        self.done("GET", path, None)
    }

    /// Asks for what is to be done, and reads what comes of it.
    pub(crate) fn done<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<T, String> {
        let (status, value) = self.ask(method, path, body)?;
        if !(200..300).contains(&status) {
            return Err(format!("{method} {path}: {status}: {value}"));
        }
        serde_json::from_value(value).map_err(|error| format!("{method} {path}: {error}"))
    }

    /// Has something done that is a task, and waits for its end.
    pub(crate) fn task(&self, method: &str, path: &str) -> Result<Task, String> {
        let mut task: Task = self.done(method, path, None)?;
        let until = Instant::now() + PATIENCE;
        while !task.is_over() {
            if Instant::now() >= until {
                return Err(format!("{method} {path}: it goes on and on: {task:?}"));
            }
            std::thread::sleep(PACE);
            task = self.get(&format!("/v1/tasks/{}", task.id))?;
        }
        match &task.error {
            None => Ok(task),
            Some(error) => Err(format!("{method} {path}: {error}")),
        }
    }

    /// Waits until something holds.
    pub(crate) fn until(
        &self,
        what: &str,
        holds: impl Fn(&Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !holds(self)? {
            if Instant::now() >= until {
                return Err(format!("{what} has not come"));
            }
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    /// Uploads a file as an image.
    pub(crate) fn upload(&self, name: &str, file: &std::path::Path) -> Result<Answer, String> {
        let file = std::fs::File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let request = ureq::http::Request::builder()
            .method("PUT")
            .uri(format!("{}/v1/images/{name}", self.node))
            .header("Authorization", format!("Bearer {}", self.token))
            .body(file)
            .map_err(told)?;
        answer(self.agent.run(request).map_err(told)?)
    }
}

fn answer(mut response: ureq::http::Response<Body>) -> Result<Answer, String> {
    let text = response.body_mut().read_to_string().map_err(told)?;
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    };
    Ok((response.status().as_u16(), value))
}

fn told(error: impl Display) -> String {
    error.to_string()
}
