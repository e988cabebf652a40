//! Another IPAM plugin under berth as main plugin: it assigns the addresses, and Berth creates the link,
//! watches the addresses and defends them.
//!
//! The delegate gets the whole configuration and this process's environment, as the specification of plugin
//! delegation requires. Its standard error goes to this process's, and its error object is passed on
//! unchanged. Only its own DEL releases its addresses.

use std::net::IpAddr;

use berth_cni::error::code;
use berth_cni::result::Ip;
use berth_cni::{CniResult, ErrorObject, NetConf, Version};
use berth_ipam::config::Route;
use berth_protocol::response::{Granted, LeaseGrant};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::errors::PluginError;
use crate::settings;
use crate::world::World;

/// The delegate of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipam {
    kind: String,
    input: Vec<u8>,
    version: Version,
}

/// Addresses and more, as the delegate gave them.
#[derive(Debug, Clone)]
pub struct Given {
    result: CniResult,
}

impl Ipam {
    /// The IPAM plugin that the configuration names, if it is another than berth (and so never where
    /// berth itself is another plugin's IPAM).
    pub fn of(conf: &NetConf) -> Result<Option<Self>, PluginError> {
        let Some(kind) = settings::foreign_ipam(conf)? else { return Ok(None) };
        let input = Value::Object(conf.raw().clone()).to_string().into_bytes();
        Ok(Some(Self { kind: kind.to_owned(), input, version: conf.version() }))
    }

    /// Name of the plugin.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// ADD: at least one address.
    pub fn add(&self, world: &mut impl World) -> Result<Given, PluginError> {
        let verb = "ADD";
        let output = self.run(world, verb)?;
        let malformed = |why| PluginError::DelegateOutput { kind: self.kind.clone(), verb, why };
        let value: Value =
            serde_json::from_slice(&output).map_err(|error| malformed(format!("not JSON: {error}")))?;
        let result =
            CniResult::parse("result", &value, self.version).map_err(|error| malformed(error.to_string()))?;
        if result.ips().is_empty() {
            return Err(malformed("the result has no address".to_owned()));
        }
        Ok(Given { result })
    }

    /// DEL, which releases the delegate's addresses.
    pub fn del(&self, world: &mut impl World) -> Result<(), PluginError> {
        self.run(world, "DEL").map(drop)
    }

    /// Runs its CHECK command.
    pub fn check(&self, world: &mut impl World) -> Result<(), PluginError> {
        self.run(world, "CHECK").map(drop)
    }

    fn run(&self, world: &mut impl World, verb: &'static str) -> Result<Vec<u8>, PluginError> {
        let kind = self.kind.clone();
        let ended = match world.delegate(&self.kind, verb, &self.input) {
            Ok(ended) => ended,
            Err(cause) => return Err(PluginError::NoDelegate { kind, cause }),
        };
        if ended.success {
            return Ok(ended.stdout);
        }
        match ErrorObject::parse(&ended.stdout) {
            Some(object) => Err(PluginError::Delegate { kind, verb, object: Box::new(object) }),
            None => Err(PluginError::DelegateOutput { kind, verb, why: ended.status }),
        }
    }
}

/// Passes STATUS or GC on to the delegate, if there is one. A plugin older than these verbs reports an
/// unknown command, which is not an error here.
pub fn forward(world: &mut impl World, conf: &NetConf, verb: &'static str) -> Result<(), PluginError> {
    let Some(ipam) = Ipam::of(conf)? else { return Ok(()) };
    match ipam.run(world, verb) {
        Err(PluginError::Delegate { object, .. }) if object.code == code::BAD_ENVIRONMENT => {
            world.note(&format!("the IPAM plugin {} has no {verb}: {}", ipam.kind, object.msg));
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

impl Given {
    /// The addresses without more.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.result.ips().iter().map(|ip| ip.address.ip()).collect()
    }

    /// The network's grant with the delegate's addresses and routes in place of its own. A route without a
    /// next hop uses the gateway of its family, as in main plugins.
    pub fn grant(&self, network: LeaseGrant) -> LeaseGrant {
        let ips = self.result.ips();
        let gateway = |to: IpNetwork| {
            ips.iter().find(|ip| ip.address.is_ipv4() == to.is_ipv4()).and_then(|ip| ip.gateway)
        };
        let routes = self.result.routes().into_iter();
        let routes = routes.map(|route| Route {
            to: route.to,
            via: route.via.or_else(|| gateway(route.to)),
            onlink: false,
            // The kernel replaces metric 0 by a default.
            metric: route.priority.filter(|priority| *priority != 0),
        });
        let granted = |ip: &Ip| Granted { address: ip.address, gateway: ip.gateway };
        LeaseGrant { addresses: ips.iter().map(granted).collect(), routes: routes.collect(), ..network }
    }

    /// Output of the delegate: the start of the whole result.
    pub fn into_result(self) -> CniResult {
        self.result
    }
}

#[cfg(test)]
#[path = "delegate_tests.rs"]
mod tests;
