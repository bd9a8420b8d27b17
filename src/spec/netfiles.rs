//! `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname` of a container: which ones, and from where.
//!
//! Generated files lie where no task has a way to: the Go driver put them where the task could replace them, and the
//! next start followed what it had put there. What the task may write, as Docker's may, lies on the disk of its allocation,
//! beside the directories that it is shown: in the run directory, which is in memory, it could take the memory of the node.
//! A file of the host that is used as it is, is bound, so that its changes show. The job's own mount at such a place counts
//! before any of these, whatever they are made of.

use super::error::SpecError;
use super::files;
use super::identity::ContainerId;
use super::mounts::{Mounts, task_dir};
use super::namespaces::host_uts;
use super::network::{Network, network};
use super::node::NodeFacts;
use super::oci::{Beneath, GeneratedFile, Inputs};
use super::task::Dns;
use std::path::PathBuf;

/// Directory of what the task may write, in the task's own: of it a task without consent is shown the
/// files alone.
/// It stays for the next start and goes with the allocation.
pub(super) const WRITABLE: &str = ".containerd-driver";

/// Where the name servers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Resolver {
    /// A file of the host, as it is.
    File(String),
    /// A text of ours, and the option it is for.
    Text(&'static str, String),
}

/// Adds the three files to the mounts.
pub(super) struct NetFiles<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) container: &'a ContainerId,
    pub(super) hostname: &'a str,
}

impl NetFiles<'_> {
    /// `/etc/resolv.conf`.
    pub(super) fn resolv_conf(&self, m: &mut Mounts) -> Result<(), SpecError> {
        const TARGET: &str = "/etc/resolv.conf";
        match resolver(self.inputs)? {
            Some(_) if m.has(TARGET) => Ok(()),
            Some(Resolver::Text(by, content)) => {
                let path = self.write(m, "resolv.conf", content);
                m.push(by, TARGET, "bind", &path, &["bind", "rprivate", "ro"])
            }
            Some(Resolver::File(path)) => m.push("host_dns", TARGET, "bind", &path, &["rbind", "rprivate", "ro"]),
            None => Ok(()),
        }
    }

    /// `/etc/hosts`, which a task may change, as Docker's may. With the host's network it has the host's lines: a name server
    /// seldom knows the own name, and what does not find it fails (`hostname -f`, Java, MPI).
    pub(super) fn hosts(&self, m: &mut Mounts) -> Result<(), SpecError> {
        let Inputs { task, node, .. } = self.inputs;
        // Made in any case, so that what cannot be is refused whatever is mounted.
        let content = files::hosts(task, network(self.inputs)?, self.hostname, node)?;
        let by = match task.options.extra_hosts.is_empty() {
            true => "hosts file",
            false => "extra_hosts",
        };
        self.writable(m, by, "/etc/hosts", "hosts", content)
    }

    /// `/etc/hostname`, unless the name is the host's.
    pub(super) fn hostname(&self, m: &mut Mounts) -> Result<(), SpecError> {
        const TARGET: &str = "/etc/hostname";
        if host_uts(self.inputs)? {
            return Ok(());
        }
        self.writable(m, "hostname", TARGET, "hostname", format!("{}\n", self.hostname))
    }

    /// Plans a file that the task may write. Without an allocation there is no place for it that has a bound: it is
    /// read-only then.
    fn writable(
        &self,
        m: &mut Mounts,
        by: &'static str,
        target: &str,
        name: &str,
        content: String,
    ) -> Result<(), SpecError> {
        if m.has(target) {
            return Ok(());
        }
        let Some(own) = task_dir(self.inputs.task)? else {
            let path = self.write(m, name, content);
            return m.push(by, target, "bind", &path, &["rbind", "rprivate", "ro"]);
        };
        let source = own.join(WRITABLE).join(name);
        // Who mounts the whole directory, with the operator's consent, can put a link in its place.
        m.beneath.push(Beneath {
            dir: self.inputs.task.alloc_dir.clone(),
            source: source.clone(),
            target: target.into(),
            contested: false,
        });
        let path = plan(m, source, content);
        m.push(by, target, "bind", &path, &["rbind", "rprivate", "rw"])
    }

    /// Plans a file in the container's run directory.
    fn write(&self, m: &mut Mounts, name: &str, content: String) -> String {
        let dir = self.inputs.node.run_dir.join(self.container.as_str());
        plan(m, dir.join(name), content)
    }
}

/// Plans a file, and returns its path as a mount names it.
fn plan(m: &mut Mounts, path_on_host: PathBuf, content: String) -> String {
    let path = path_on_host.to_string_lossy().into_owned();
    m.files.push(GeneratedFile {
        path_on_host,
        content,
        mode: 0o644,
    });
    path
}

/// The host's resolver, and what is in it; `None` for a host without that file.
///
/// A server on loopback answers nobody in another network. There it is left out, as by Docker's daemon; where the host has no
/// other, those are asked that the host's own resolver asks, as far as systemd-resolved tells. Where nothing is left it
/// is the public servers that Docker takes.
fn of_host(node: &NodeFacts, own_network: bool) -> Option<(Resolver, String)> {
    let plain = node.resolv_conf.as_deref()?;
    let as_it_is = |path: &str, text: &str| Some((Resolver::File(path.to_owned()), text.to_owned()));
    if !own_network || !files::asks_loopback(plain) {
        return as_it_is("/etc/resolv.conf", plain);
    }
    let upstream = node.resolv_upstream.as_ref();
    let text = match upstream.filter(|(_, text)| !files::asks_others(plain) && files::asks_others(text)) {
        Some((path, text)) if !files::asks_loopback(text) => return as_it_is(path, text),
        Some((_, text)) => text,
        None => plain,
    };
    let text = files::without_loopback(text);
    Some((Resolver::Text("host_dns", text.clone()), text))
}

/// Group, task, plugin configuration, host, in this order; `None` leaves the image's own file.
fn resolver(inputs: &Inputs<'_>) -> Result<Option<Resolver>, SpecError> {
    let Inputs {
        task, node, settings, ..
    } = inputs;
    let o = &task.options;
    let own_network = network(inputs)? != Network::Host;
    let of_host = of_host(node, own_network);
    let host = of_host.as_ref().map_or("", |(_, text)| text);
    let of_plugin = if own_network {
        servers("dns_servers", &settings.dns_servers)?
    } else {
        Vec::new()
    };
    // Where servers are left out, those of the plugin configuration count before the host's.
    let generate = |by, mut dns: Dns| {
        if dns.servers.is_empty() {
            dns.servers.clone_from(&of_plugin);
        }
        Ok(Some(Resolver::Text(by, files::resolv_conf(&dns, host))))
    };
    if let Some(dns) = &task.dns {
        return generate("dns", of_group(dns)?);
    }
    let of_task = Dns {
        servers: servers("dns_servers", &o.dns_servers)?,
        searches: words("dns_search_domains", &o.dns_search_domains)?,
        options: words("dns_options", &o.dns_options)?,
    };
    if of_task != Dns::default() {
        return generate("dns_servers", of_task);
    }
    if !of_plugin.is_empty() {
        return generate("dns_servers", Dns::default());
    }
    let wanted = o.host_dns || !own_network;
    Ok(of_host.filter(|_| wanted).map(|(resolver, _)| resolver))
}

/// The group's block, in the Go driver's words where it cannot be written.
fn of_group(dns: &Dns) -> Result<Dns, SpecError> {
    let refuse = |text: &str, expected: &str| SpecError::Refused {
        option: "dns".to_owned(),
        text: format!("option dns: {text:?}: failed to build mount for resolv.conf: {expected} is expected"),
    };
    if let Some(bad) = dns.servers.iter().find(|s| !files::is_server(s)) {
        return Err(refuse(bad, "an IP address"));
    }
    if let Some(bad) = dns.searches.iter().chain(&dns.options).find(|w| !files::is_word(w)) {
        return Err(refuse(bad, "a name without spaces"));
    }
    Ok(dns.clone())
}

/// Name servers of an option or setting.
pub(super) fn servers(option: &str, given: &[String]) -> Result<Vec<String>, SpecError> {
    match given.iter().find(|s| !files::is_server(s)) {
        Some(bad) => Err(SpecError::option(
            option,
            bad,
            "an IP address of a name server is expected",
        )),
        None => Ok(given.to_vec()),
    }
}

fn words(option: &str, given: &[String]) -> Result<Vec<String>, SpecError> {
    match given.iter().find(|w| !files::is_word(w)) {
        Some(bad) => Err(SpecError::option(option, bad, "a word without spaces is expected")),
        None => Ok(given.to_vec()),
    }
}

#[cfg(test)]
#[path = "netfiles_test.rs"]
mod tests;
