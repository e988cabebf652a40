//! The source of evidence that a lab's agent uses, and the runs that distinguish the sources.
//!
//! A case might pass by another source than its own. So a case about the eBPF programs is run again with
//! every other source disabled ([`Played::again`]), where it must hold the same bounds. It is run once more
//! with the programs disabled as well, where it must miss them: a run without sources in which addresses are
//! freed in time measures something else.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::agent::{NETLINK, RECONCILE};
use crate::cleanup;
use crate::client::{Client, Finding};
use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Narrator, Who};
use crate::report::Builder;
use crate::world::PARENT;

/// Name of the attach mode without programs in the agent's output.
pub const NO_PROGRAMS: &str = "none";
/// Time limit for a running agent to load and prove its programs.
const PROOF: Duration = Duration::from_secs(10);
/// Text of `doctor` in that time.
const LOADING: &str = "being loaded";
/// Prefix of the name of the source that came first, in a verdict's text.
const FIRST: &str = "first told by ";

/// The rung that an agent is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    name: String,
    /// Text of the agent's finding.
    pub text: String,
}

impl Rung {
    /// The attach mode that the lab's agent reports.
    pub fn of(lab: &Lab) -> Result<Self> {
        let from = Instant::now();
        loop {
            let findings = lab.client().doctor()?;
            let rung = Self::read(&findings);
            if !rung.text.contains(LOADING) || from.elapsed() > PROOF {
                lab.tell.say(Who::Agent, &format!("rung {}: {}", rung.name, rung.text));
                return Ok(rung);
            }
            cleanup::pause(Duration::from_millis(20))?;
        }
    }

    fn read(findings: &[Finding]) -> Self {
        let finding = findings.iter().find(|finding| finding.what == "rung.ebpf");
        let text = finding.map(|finding| finding.text.clone()).unwrap_or_default();
        let name = finding.filter(|finding| finding.ok).and_then(|finding| {
            finding.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').find(|word| !word.is_empty())
        });
        Self { name: name.unwrap_or(NO_PROGRAMS).to_owned(), text }
    }

    /// Finding of `doctor` about the watcher on the parent, if a program watches the segment too.
    pub fn watcher(lab: &Lab) -> Result<Option<String>> {
        let findings = lab.client().doctor()?;
        let watcher = findings.into_iter().find(|finding| finding.what == format!("watch.{PARENT}"));
        Ok(watcher.filter(|finding| finding.ok).map(|finding| finding.text))
    }

    /// Its name: `fentry`, `tp_btf`, `kprobe` or `none`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if programs report teardowns.
    pub fn sees_teardowns(&self) -> bool {
        self.name != NO_PROGRAMS
    }

    /// The bound that holds on it.
    pub fn bound(&self, programs: Duration, netlink: Duration) -> Duration {
        if self.sees_teardowns() { programs } else { netlink }
    }
}

/// In a run without faults no source may miss an event of another: an agent that receives everything has no
/// warnings.
pub fn agree(lab: &Lab, case: &mut Builder) -> Result<()> {
    if !lab.setup.deaf.is_empty() {
        return Ok(());
    }
    let mut client = lab.client();
    let mut offences = Vec::new();
    for address in &lab.addresses {
        let history = client.history(IpAddr::V4(*address))?;
        let warnings = history.iter().filter(|event| event.code == "sources-disagree");
        offences.extend(warnings.map(|event| format!("{address}: {}", event.text)));
    }
    case.none("warnings that the sources disagree", &offences);
    Ok(())
}

/// If programs observe teardowns, one watches the segment as well, and the packet socket is idle.
pub fn watched(lab: &Lab, case: &mut Builder) -> Result<()> {
    let rung = Rung::of(lab)?;
    let watcher = Rung::watcher(lab)?;
    lab.tell.say(Who::Agent, &format!("the wire: {}", watcher.as_deref().unwrap_or("a packet socket")));
    if rung.sees_teardowns() {
        case.holds("a program watches the wire", watcher.is_some());
    }
    Ok(())
}

/// A part of a case: runs it and returns the attach mode in use.
pub type Part<'a> = &'a dyn Fn(&Options, &mut Builder) -> Result<Rung>;

/// Plays `whole`; then, if that was on programs, a `share` of it with every other source silenced;
/// then `blind` with the programs gone as well.
pub fn play(
    options: &Options,
    case: &mut Builder,
    whole: Part<'_>,
    share: f64,
    blind: &dyn Fn(&Options, &mut Builder) -> Result<()>,
) -> Result<()> {
    let rung = whole(options, case)?;
    if !rung.sees_teardowns() {
        options.tell.say(Who::World, "no programs in the kernel: what they are worth alone is not played");
        return Ok(());
    }
    let deaf = Options { deaf: vec![NETLINK, RECONCILE], ..options.clone() };
    let chapter = format!("by {} alone", rung.name());
    title(&options.tell, case, &chapter);
    let alone = whole(&Options { scale: options.scale * share, ..deaf.clone() }, case)?;
    case.holds("the agent is on the same rung", alone.name() == rung.name());
    title(&options.tell, case, "without any source");
    blind(&Options { rung: Some(NO_PROGRAMS.to_owned()), ..deaf }, case)?;
    case.chapter("");
    Ok(())
}

/// Starts a part under other conditions.
pub fn title(tell: &Narrator, case: &mut Builder, chapter: &str) {
    case.chapter(chapter);
    tell.say(Who::World, &format!("{chapter}:"));
}

/// Without any source, no address may be free when its bound is over: this proves that the runs that held the
/// bound did so by their source. Watches for `length`.
pub fn missed(
    case: &mut Builder,
    watch: &mut LeaseWatch,
    gone: &[Attachment],
    length: Duration,
) -> Result<()> {
    watch.look_for(length)?;
    let free = gone.iter().filter(|attachment| watch.freed(attachment).is_some()).count();
    case.equal("addresses free in time without a source (else the other runs prove nothing)", free, 0);
    Ok(())
}

/// Checks that the histories of freed addresses name the source that came first; in a lab with programs as
/// the only source, the programs.
#[derive(Debug, Default)]
pub struct Firsts {
    offences: Vec<String>,
    by: std::collections::BTreeMap<String, usize>,
}

impl Firsts {
    /// Reads the last verdict on an address.
    pub fn look(&mut self, lab: &Lab, rung: &Rung, address: IpAddr) -> Result<()> {
        let first = first_of(&mut lab.client(), address)?;
        let alone = lab.setup.deaf.contains(&NETLINK) && rung.sees_teardowns();
        match first {
            Some(source) if !alone || source == rung.name() => *self.by.entry(source).or_default() += 1,
            other => self.offences.push(format!("{address}: {other:?}")),
        }
        Ok(())
    }

    /// Prints the sources and records the check.
    pub fn report(&self, lab: &Lab, case: &mut Builder) {
        let told: Vec<String> = self.by.iter().map(|(source, count)| format!("{source} {count}")).collect();
        lab.tell.say(Who::Agent, &format!("first reported by: {}", told.join(", ")));
        case.none("verdicts that do not name the source that came first", &self.offences);
    }
}

/// The source that the last verdict on an address names as the first one.
fn first_of(client: &mut Client, address: IpAddr) -> Result<Option<String>> {
    let history = client.history(address)?;
    let verdict = history.iter().rev().find(|event| event.kind == "verdict");
    Ok(verdict.and_then(|verdict| named(&verdict.text)))
}

fn named(text: &str) -> Option<String> {
    let (_, rest) = text.rsplit_once(FIRST)?;
    let name = rest.split_whitespace().next()?.trim_end_matches([';', ',', '.']);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(ok: bool, text: &str) -> Finding {
        Finding { what: "rung.ebpf".to_owned(), ok, text: text.to_owned() }
    }

    #[test]
    fn the_rung_is_the_first_word_of_a_good_finding() {
        let read = |ok, text: &str| Rung::read(&[finding(ok, text)]).name;
        assert_eq!(read(true, "tp_btf, proved 3 ms ago; fentry: refused"), "tp_btf");
        assert_eq!(read(true, "fentry: proved"), "fentry");
        assert_eq!(read(false, "tp_btf: refused"), NO_PROGRAMS);
        assert_eq!(Rung::read(&[]).name, NO_PROGRAMS);
        let rung = Rung::read(&[finding(true, "kprobe")]);
        let [fast, slow] = [20, 100].map(Duration::from_millis);
        assert_eq!((rung.bound(fast, slow), Rung::read(&[]).bound(fast, slow)), (fast, slow));
    }

    #[test]
    fn the_first_source_is_read_from_the_end_of_a_verdict() {
        assert_eq!(named("release: gone (netns Dead); first told by tp_btf").as_deref(), Some("tp_btf"));
        assert_eq!(named("first told by netlink; ...").as_deref(), Some("netlink"));
        assert_eq!(named("release: gone (netns Dead)"), None);
        assert_eq!(named("x; first told by "), None);
    }
}
