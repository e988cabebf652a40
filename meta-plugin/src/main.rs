//! `berth`: the CNI plugin, in all its roles.
//!
//! This file converts a process into a call and an outcome into an exit: exactly one JSON document on
//! standard output, or none where the specification requires none. The flows are in `add.rs`, `del.rs` and
//! their neighbours.

mod add;
mod check;
mod del;
mod delegate;
mod errors;
mod exec;
mod gc;
mod kernel;
mod links;
mod refusal;
mod release;
mod routes;
mod session;
mod settings;
#[cfg(test)]
mod sim;
mod status;
mod undo;
mod world;

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use berth_cni::error::code;
use berth_cni::{Call, ErrorObject, NetConf, Version, env, version};
use serde_json::Value;

use crate::errors::PluginError;
use crate::kernel::Kernel;
use crate::settings::Settings;
use crate::world::World;

/// Limit above any configuration with its `prevResult`.
const STDIN_LIMIT: u64 = 16 * 1024 * 1024;

/// The version in which errors are printed, once it is read.
static OUTPUT_VERSION: OnceLock<Version> = OnceLock::new();

fn main() -> ExitCode {
    report_panics();
    let call = match env::parse(|name| std::env::var_os(name)) {
        Ok(call) => call,
        Err(error) => return fail(&PluginError::from(error).object(output_version())),
    };
    match run(&call) {
        Ok(output) => print(output.as_ref()),
        Err(error) if matches!(call, Call::Del(_)) => fail(&error.object_of_del(output_version())),
        Err(error) => fail(&error.object(output_version())),
    }
}

fn run(call: &Call) -> Result<Option<Value>, PluginError> {
    match call {
        Call::About => {
            let versions = Version::ALL.map(Version::as_str).join(", ");
            eprintln!("berth {}: a CNI plugin; CNI versions {versions}", env!("CARGO_PKG_VERSION"));
            return Ok(None);
        }
        Call::Version => return Ok(Some(version::report())),
        Call::Add(_) | Call::Del(_) | Call::Check(_) | Call::Gc | Call::Status => {}
    }
    let input = stdin()?;
    let hint = NetConf::version_hint(&input);
    let _ = OUTPUT_VERSION.set(hint);
    let conf = NetConf::parse(&input)?;
    let settings = Settings::read(&conf)?;
    let mut world = Kernel::new(settings.clone());
    match call {
        Call::Add(attach) => {
            let result = add::add(&mut world, &conf, &settings, attach)?;
            return Ok(Some(result.to_json(conf.version())));
        }
        Call::Del(detach) => del::del(&mut world, &conf, &settings, detach)?,
        Call::Check(attach) => {
            conf.require("CHECK", Version::V0_4_0)?;
            check::check(&mut world, &conf, &settings, attach)?;
        }
        Call::Status => {
            conf.require("STATUS", Version::V1_1_0)?;
            status::status(&mut world, Some(settings.network.clone()))?;
            delegate::forward(&mut world, &conf, "STATUS")?;
        }
        Call::Gc => {
            conf.require("GC", Version::V1_1_0)?;
            // Both run, whatever the result of the other.
            let own = gc::gc(&mut world, &conf);
            let other = delegate::forward(&mut world, &conf, "GC");
            if let (Err(_), Err(error)) = (&own, &other) {
                world.note(&errors::chain(error));
            }
            own.and(other)?;
        }
        Call::About | Call::Version => {}
    }
    Ok(None)
}

fn stdin() -> Result<Vec<u8>, PluginError> {
    let mut input = Vec::new();
    io::stdin().lock().take(STDIN_LIMIT + 1).read_to_end(&mut input).map_err(PluginError::Stdin)?;
    if u64::try_from(input.len()).unwrap_or(u64::MAX) > STDIN_LIMIT {
        return Err(PluginError::StdinTooLong { limit: STDIN_LIMIT });
    }
    Ok(input)
}

fn output_version() -> Version {
    OUTPUT_VERSION.get().copied().unwrap_or(Version::LATEST)
}

fn print(output: Option<&Value>) -> ExitCode {
    let Some(output) = output else { return ExitCode::SUCCESS };
    match write(output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A result that was not received is a failed call to the runtime, which then sends DEL.
            eprintln!("berth: cannot write the result to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn fail(object: &ErrorObject) -> ExitCode {
    if let Err(error) = write(&object.to_json()) {
        eprintln!("berth: {}: cannot write the error to standard output: {error}", object.msg);
    }
    ExitCode::FAILURE
}

fn write(document: &Value) -> io::Result<()> {
    let mut text = document.to_string();
    text.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// A panic is a bug, and still ends with one error object: runtimes show it, and the agent undoes
/// the attachment when it sees the connection close. The hook does it, because installed binaries
/// abort on a panic.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("berth: {panic}");
        let object = ErrorObject {
            version: output_version(),
            code: code::INTERNAL,
            msg: format!(
                "the plugin failed: {}",
                panic.payload_as_str().unwrap_or("a panic without a message")
            ),
            details: "this is a bug; please report the runtime's log around this call".to_owned(),
        };
        let _ = write(&object.to_json());
        std::process::exit(1);
    }));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// The hook ends the process, so a child runs this test again and panics in it.
    #[test]
    fn a_panic_ends_with_one_error_object() {
        const CHILD: &str = "BERTH_TEST_PANIC";
        if std::env::var_os(CHILD).is_some() {
            super::report_panics();
            panic!("planted");
        }
        let binary = std::env::current_exe().unwrap();
        let arguments = ["--exact", "tests::a_panic_ends_with_one_error_object", "--nocapture"];
        let output = Command::new(binary).args(arguments).env(CHILD, "1").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stdout = String::from_utf8(output.stdout).unwrap();
        let objects: Vec<serde_json::Value> =
            stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(objects.len(), 1, "{stdout}");
        assert_eq!(
            (&objects[0]["code"], &objects[0]["msg"]),
            (&999.into(), &"the plugin failed: planted".into())
        );
    }
}
