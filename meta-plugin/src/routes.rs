//! The routes of the interface among those that the container has.
//!
//! An interface that comes later leaves the traffic of the first one where it is: its route to a destination
//! that another interface serves gets the next higher metric. So each route of a result is there, and the
//! kernel falls back on the next one when the first interface goes.

use berth_ipam::config::Route;
use berth_underlay::facts::RouteFacts;
use ipnetwork::IpNetwork;

/// The main routing table.
const MAIN: u32 = 254;

/// The metric that the kernel assigns to an IPv6 route without one.
const METRIC_V6: u32 = 1024;

/// The wanted routes of the link `ifindex` (`None`: one that does not exist yet) with the metrics that they
/// get among the container's routes.
pub fn plan(wanted: &[Route], held: &[RouteFacts], ifindex: Option<u32>) -> Vec<Route> {
    let mut planned: Vec<Route> = Vec::with_capacity(wanted.len());
    for route in wanted {
        let own = held.iter().find(|held| is_made(route, held, ifindex));
        let metric = own.map_or_else(|| free_metric(route, held, &planned), |own| own.metric);
        planned
            .push(Route { metric: (metric != default_metric(route.to)).then_some(metric), ..route.clone() });
    }
    planned
}

/// The first planned route that the link lacks.
pub fn missing<'a>(planned: &'a [Route], held: &[RouteFacts], ifindex: u32) -> Option<&'a Route> {
    let exact = |route: &Route, held: &RouteFacts| {
        let metric = route.metric.unwrap_or_else(|| default_metric(route.to));
        held.metric == metric && is_made(route, held, Some(ifindex))
    };
    planned.iter().find(|route| !held.iter().any(|held| exact(route, held)))
}

fn is_made(route: &Route, held: &RouteFacts, ifindex: Option<u32>) -> bool {
    let same = held.table == MAIN && held.ifindex.is_some() && held.ifindex == ifindex;
    same && is_to(held.to, route.to)
        && held.via == route.via
        && route.metric.is_none_or(|metric| metric == held.metric)
}

/// The wanted metric, or the first free one after that of the existing route, if it is taken or none is
/// wanted.
fn free_metric(route: &Route, held: &[RouteFacts], planned: &[Route]) -> u32 {
    let held = held.iter().filter(|held| held.table == MAIN && is_to(held.to, route.to));
    let planned = planned.iter().filter(|planned| is_to(planned.to, route.to));
    let planned = planned.map(|route| route.metric.unwrap_or_else(|| default_metric(route.to)));
    let taken: Vec<u32> = held.map(|held| held.metric).chain(planned).collect();
    match (taken.iter().min(), route.metric) {
        (None, wanted) => wanted.unwrap_or_else(|| default_metric(route.to)),
        (Some(_), Some(wanted)) if !taken.contains(&wanted) => wanted,
        (Some(used), None | Some(_)) => {
            let first = used.saturating_add(1).max(default_metric(route.to));
            (first..u32::MAX).find(|metric| !taken.contains(metric)).unwrap_or(u32::MAX)
        }
    }
}

/// Compares destinations without their host bits.
fn is_to(one: IpNetwork, other: IpNetwork) -> bool {
    one.network() == other.network() && one.prefix() == other.prefix()
}

fn default_metric(to: IpNetwork) -> u32 {
    if to.is_ipv6() { METRIC_V6 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, via: &str, metric: Option<u32>) -> Route {
        Route { to: to.parse().unwrap(), via: via.parse().ok(), onlink: false, metric }
    }

    fn held(to: &str, via: &str, ifindex: u32, metric: u32) -> RouteFacts {
        let (to, via, ifindex) = (to.parse().unwrap(), via.parse().ok(), Some(ifindex));
        RouteFacts { to, via, ifindex, table: MAIN, metric }
    }

    fn metrics(wanted: &[Route], held: &[RouteFacts], ifindex: Option<u32>) -> Vec<Option<u32>> {
        plan(wanted, held, ifindex).iter().map(|route| route.metric).collect()
    }

    #[test]
    fn a_route_of_another_interface_keeps_its_precedence() {
        let wanted = [route("0.0.0.0/0", "10.0.0.1", None), route("::/0", "fe80::1", None)];
        assert_eq!(metrics(&wanted, &[], None), [None, None]);
        let first = [held("0.0.0.0/0", "192.0.2.1", 2, 0), held("::/0", "fe80::9", 2, 1024)];
        assert_eq!(metrics(&wanted, &first, None), [Some(1), Some(1025)]);
        let learnt = [held("0.0.0.0/0", "192.0.2.1", 2, 100), held("::/0", "fe80::9", 2, 100)];
        assert_eq!(metrics(&wanted, &learnt, None), [Some(101), None], "still after it");
        let elsewhere = [RouteFacts { table: 100, ..first[0].clone() }, held("10.9.0.0/16", "", 2, 0)];
        assert_eq!(metrics(&wanted, &elsewhere, None), [None, None]);
        assert_eq!(metrics(&[wanted[0].clone(), wanted[0].clone()], &[], None), [None, Some(1)]);
    }

    #[test]
    fn a_declared_metric_is_kept_unless_it_is_taken() {
        let wanted = [route("0.0.0.0/0", "10.0.0.1", Some(50))];
        let first = |metric| [held("0.0.0.0/0", "192.0.2.1", 2, metric)];
        assert_eq!(metrics(&wanted, &first(0), None), [Some(50)]);
        assert_eq!(metrics(&wanted, &first(100), None), [Some(50)], "ahead, as it is declared");
        assert_eq!(metrics(&wanted, &first(50), None), [Some(51)]);
    }

    #[test]
    fn a_route_that_was_lost_comes_back_to_its_place() {
        let wanted = [route("0.0.0.0/0", "10.0.0.1", None)];
        let [first, third, last] = [(2, 0), (4, 2), (5, 900)]
            .map(|(ifindex, metric)| held("0.0.0.0/0", "192.0.2.1", ifindex, metric));
        assert_eq!(metrics(&wanted, &[first, third, last], Some(3)), [Some(1)]);
    }

    #[test]
    fn a_route_that_the_link_has_stays_as_it_is() {
        let wanted = [route("10.9.0.1/16", "10.0.0.1", None)];
        let both = [held("10.9.0.0/16", "192.0.2.1", 2, 0), held("10.9.0.0/16", "10.0.0.1", 7, 5)];
        assert_eq!(metrics(&wanted, &both, Some(7)), [Some(5)]);
        let planned = plan(&wanted, &both, Some(7));
        assert_eq!(missing(&planned, &both, 7), None);
        assert_eq!(missing(&planned, &both[..1], 7), Some(&planned[0]));
        assert_eq!(missing(&planned, &both, 2), Some(&planned[0]), "by another next hop");
        assert_eq!(missing(&[Route { metric: None, ..planned[0].clone() }], &both, 7).map(|_| ()), Some(()));
    }
}
