//! Declarations as operators write them: what is accepted, what it becomes, and what each mistake
//! is answered with.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a helper of a test fails like the test itself")]

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use berth_api::{ApiError, Declared, crds, load};
use berth_ipam::config::{Config, LinkSpec, MacvlanMode};
use berth_ipam::interval::{Family, from_bits};
use berth_ipam::name::PoolName;

fn config(text: &str) -> Result<Config, ApiError> {
    let mut declared = Declared::default();
    declared.add_text(Path::new("test.yaml"), text)?;
    declared.into_config()
}

/// The whole chain, as an operator sees it.
fn mistake(text: &str) -> String {
    let error = config(text).expect_err(text);
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        chain.push_str(": ");
        chain.push_str(&next.to_string());
        cause = next.source();
    }
    chain
}

fn pool(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn network(spec: &str) -> String {
    format!(
        "---\napiVersion: berth.dev/v1alpha1\nkind: UnderlayNetwork\nmetadata: {{name: lan}}\nspec: {{{spec}}}\n"
    )
}

const MACVLAN: &str = "link: {type: macvlan, parent: eth1}";

fn members(spec: &str) -> Vec<String> {
    let config = config(&pool("p", spec)).expect(spec);
    let pool = config.pools.values().next().unwrap();
    let family = Family::of(pool.subnet.ip());
    pool.members
        .iter()
        .map(|(first, last)| format!("{}-{}", from_bits(first, family), from_bits(last, family)))
        .collect()
}

#[test]
fn the_documented_example_is_accepted_and_means_what_it_says() {
    let page = include_str!("../../docs/configuration.md");
    let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let config = config(example).unwrap();
    let lan = &config.networks[&"lan".parse().unwrap()];
    assert_eq!(
        lan.link,
        LinkSpec::Macvlan { parent: "eth1".parse().unwrap(), mode: MacvlanMode::Bridge, mtu: Some(1500) }
    );
    assert_eq!(
        lan.pools.iter().map(PoolName::as_str).collect::<Vec<_>>(),
        ["lan-v4", "lan-v4-more", "lan-v6"]
    );
    assert_eq!(
        (lan.add_timeout, lan.settle, lan.leaked_after),
        (Duration::from_secs(110), Duration::from_secs(2), Some(Duration::from_mins(5)))
    );
    assert!(lan.proxy_macs.contains(&"00:00:5e:00:53:01".parse().unwrap()));
    let storage = &config.networks[&"storage".parse().unwrap()];
    assert_eq!(
        storage.link,
        LinkSpec::Vlan { parent: "eth1".parse().unwrap(), id: 100, exclusive: false, mtu: None }
    );
    let v4 = &config.pools[&"lan-v4".parse().unwrap()];
    assert_eq!(v4.members.len(), 89 + 64 + 1);
    assert_eq!(v4.routes[0].via, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(v4.routes[1].via, Some("192.0.2.2".parse().unwrap()));
    let v6 = &config.pools[&"lan-v6".parse().unwrap()];
    assert_eq!(v6.members.len(), (1 << 64) - 2);
    assert!(config.pools[&"lan-v4-more".parse().unwrap()].disabled && !v4.disabled);
}

#[test]
fn what_is_left_out_has_its_default() {
    let config =
        config(&(network(&format!("{MACVLAN}, pools: [p]")) + &pool("p", "subnet: 192.0.2.0/29"))).unwrap();
    let network = config.networks.values().next().unwrap();
    assert_eq!(
        (network.accept_ra, network.add_timeout, network.settle, network.leaked_after),
        (false, Duration::from_secs(110), Duration::from_secs(2), None)
    );
    let pool = config.pools.values().next().unwrap();
    assert_eq!((pool.segment.as_str(), pool.gateway, pool.disabled), ("default", None, false));
    assert!(pool.routes.is_empty());
}

#[test]
fn members_are_what_the_page_promises() {
    for (spec, expected) in [
        ("subnet: 192.0.2.0/29", &["192.0.2.1-192.0.2.6"][..]),
        ("subnet: 192.0.2.0/29, gateway: 192.0.2.3", &["192.0.2.1-192.0.2.2", "192.0.2.4-192.0.2.6"]),
        ("subnet: 192.0.2.0/31", &["192.0.2.0-192.0.2.1"]),
        ("subnet: 192.0.2.7/32", &["192.0.2.7-192.0.2.7"]),
        ("subnet: '2001:db8::/125'", &["2001:db8::1-2001:db8::7"]),
        ("subnet: '2001:db8::/127'", &["2001:db8::-2001:db8::1"]),
        // Network, broadcast and gateway are left out of a range that covers them.
        ("subnet: 192.0.2.0/29, ranges: [192.0.2.0/29], gateway: 192.0.2.1", &["192.0.2.2-192.0.2.6"]),
        (
            "subnet: 192.0.2.0/29, ranges: [192.0.2.2-192.0.2.3, 192.0.2.3, 192.0.2.5]",
            &["192.0.2.2-192.0.2.3", "192.0.2.5-192.0.2.5"],
        ),
        (
            "subnet: 192.0.2.0/28, ranges: [192.0.2.4/30], exclude: [192.0.2.5]",
            &["192.0.2.4-192.0.2.4", "192.0.2.6-192.0.2.7"],
        ),
    ] {
        assert_eq!(members(spec), expected, "{spec}");
    }
}

#[test]
fn routes_take_the_gateway_unless_they_say_otherwise() {
    let of = |spec: &str| {
        let config = config(&pool("p", spec)).expect(spec);
        config.pools.values().next().unwrap().routes.clone()
    };
    let routes = of("subnet: 192.0.2.0/24, gateway: 192.0.2.1, routes: [{to: 0.0.0.0/0}]");
    assert_eq!(routes[0].via, Some("192.0.2.1".parse().unwrap()));
    let routes = of("subnet: 192.0.2.0/24, routes: [{to: 198.51.100.0/24, metric: 7}]");
    assert_eq!((routes[0].via, routes[0].metric), (None, Some(7)));
}

#[test]
fn next_hops_outside_the_subnet_are_link_local_or_declared_as_on_link() {
    for (spec, via, onlink) in [
        ("subnet: '2001:db8::/64', gateway: 'fe80::1', routes: [{to: '::/0'}]", "fe80::1", false),
        (
            "subnet: '2001:db8::/64', gateway: 'fe80::1', onlink: true, routes: [{to: '::/0'}]",
            "fe80::1",
            false,
        ),
        (
            "subnet: 192.0.2.0/24, gateway: 169.254.1.1, onlink: true, routes: [{to: 0.0.0.0/0}]",
            "169.254.1.1",
            true,
        ),
        ("subnet: 192.0.2.0/24, onlink: true, routes: [{to: 0.0.0.0/0, via: 192.0.2.1}]", "192.0.2.1", false),
        (
            "subnet: '2001:db8::/64', onlink: true, routes: [{to: '::/0', via: '2001:db8:f::1'}]",
            "2001:db8:f::1",
            true,
        ),
    ] {
        let config = config(&pool("p", spec)).expect(spec);
        let route = config.pools.values().next().unwrap().routes[0].clone();
        assert_eq!((route.via, route.onlink), (via.parse().ok(), onlink), "{spec}");
    }
}

/// Mistakes in one object, with the words that the error must contain: place, key, value, advice.
#[test]
fn mistakes_in_a_pool_are_answered_with_place_key_and_advice() {
    for (spec, words) in [
        ("subnet: 192.0.2.0/24, gatway: 192.0.2.1", &["spec.gatway", "unknown field `gatway`"][..]),
        ("gateway: 192.0.2.1", &["missing field `subnet`", "key spec"]),
        ("subnet: [1]", &["spec.subnet", "expected a string"]),
        ("subnet: 192.0.2.0", &["spec.subnet", "\"192.0.2.0\"", "192.0.2.0/24"]),
        ("subnet: 192.0.2.5/24", &["spec.subnet", "192.0.2.5/24", "write 192.0.2.0/24"]),
        ("subnet: 0.0.0.0/0", &["spec.subnet", "all-zero blocks"]),
        ("subnet: 239.0.0.0/24", &["spec.subnet", "multicast"]),
        ("subnet: 127.0.0.0/24", &["spec.subnet", "loopback"]),
        ("subnet: 'fe80::/64'", &["spec.subnet", "link-local"]),
        (
            "subnet: 192.0.2.0/24, gateway: 198.51.100.1",
            &["gateway 198.51.100.1 must be an address inside subnet 192.0.2.0/24", "onlink"],
        ),
        ("subnet: 192.0.2.0/24, gateway: 169.254.1.1", &["gateway 169.254.1.1 must be", "onlink"]),
        (
            "subnet: '2001:db8::/64', gateway: '2001:db8:1::1'",
            &["gateway 2001:db8:1::1 must be", "link-local"],
        ),
        ("subnet: 192.0.2.0/24, gateway: 'fe80::1', onlink: true", &["gateway fe80::1 must be"]),
        ("subnet: 192.0.2.0/24, gateway: x", &["gateway x must be"]),
        (
            "subnet: 192.0.2.0/24, gateway: 192.0.2.1, routes: [{to: 0.0.0.0/0, metric: 0}]",
            &["spec.routes[0].metric", "1 to 2147483647"],
        ),
        (
            "subnet: 192.0.2.0/24, gateway: '2001:db8::1'",
            &["gateway 2001:db8::1 must be an address inside subnet"],
        ),
        ("subnet: 192.0.2.0/24, ranges: [192.0.2.300]", &["ranges must be"]),
        ("subnet: 192.0.2.0/24, ranges: [198.51.100.7]", &["ranges must be", "inside subnet"]),
        ("subnet: 192.0.2.0/24, ranges: [192.0.0.0/16]", &["ranges must be", "inside subnet"]),
        ("subnet: 192.0.2.0/24, ranges: ['192.0.2.1 - 192.0.2.9']", &["without blanks"]),
        (
            "subnet: 192.0.2.0/24, ranges: [192.0.2.9-192.0.2.1]",
            &["spec.ranges[0]", "192.0.2.9-192.0.2.1", "exchange"],
        ),
        ("subnet: 192.0.2.0/24, ranges: [192.0.2.1-192.0.2.2-192.0.2.3]", &["spec.ranges[0]", "first-last"]),
        (
            "subnet: 192.0.2.0/24, ranges: [192.0.2.10, 192.0.2.6/30]",
            &["spec.ranges[1]", "write 192.0.2.4/30"],
        ),
        ("subnet: 192.0.2.0/24, ranges: [192.0.2.0]", &["spec.ranges[0]", "never given", "remove it"]),
        ("subnet: 192.0.2.0/24, ranges: [192.0.2.1], gateway: 192.0.2.1", &["spec.ranges[0]", "never given"]),
        ("subnet: 192.0.2.0/24, exclude: [198.51.100.0/24]", &["exclude must be"]),
        ("subnet: 192.0.2.0/30, exclude: [192.0.2.0/30]", &["no address is left"]),
        ("subnet: 192.0.2.0/24, routes: [{to: 0.0.0.0/0}]", &["a default route needs via"]),
        ("subnet: 192.0.2.0/24, routes: [{to: '::/0', via: 192.0.2.1}]", &["the subnet's family"]),
        ("subnet: 192.0.2.0/24, routes: [{to: 0.0.0.0/0, via: 198.51.100.1}]", &["via of a route", "onlink"]),
        (
            "subnet: 192.0.2.0/24, routes: [{to: 198.51.100.9/24}]",
            &["spec.routes[0].to", "write 198.51.100.0/24"],
        ),
        ("subnet: 192.0.2.0/24, routes: [{dst: 0.0.0.0/0}]", &["spec.routes[0].dst", "unknown field"]),
        ("subnet: 192.0.2.0/24, segment: Lan.1", &["spec.segment", "DNS label"]),
    ] {
        let error = mistake(&pool("p", spec));
        assert!(error.starts_with("test.yaml, document 1 (IPPool p): "), "{spec}\n{error}");
        for word in words {
            assert!(error.contains(word), "{spec}\nlacks {word:?}: {error}");
        }
    }
}

#[test]
fn mistakes_in_a_network_are_answered_with_place_key_and_advice() {
    let pools = pool("p", "subnet: 192.0.2.0/24")
        + &pool("six", "subnet: '2001:db8::/64'")
        + &pool("far", "subnet: 198.51.100.0/24, segment: far");
    for (spec, words) in [
        ("pools: [p]", &["key spec", "missing field `link`"][..]),
        ("link: {type: macvlan, parent: eth1}, pools: []", &["spec.pools", "at least one"]),
        ("link: {type: macvlan, parent: eth1}, pools: [p, p]", &["spec.pools", "named twice"]),
        ("link: {type: macvlan, parent: eth1}, pools: [q]", &["spec.pools[0]", "\"q\"", "far, p, six"]),
        ("link: {type: macvlan, parent: eth1}, pools: [p, far]", &["pool p is in segment default", "far"]),
        ("link: {type: macvlan, parent: a/b}, pools: [p]", &["spec.link.parent", "1 to 15 characters"]),
        ("link: {type: macvlan, parent: eth1, id: 5}, pools: [p]", &["spec.link", "type vlan"]),
        ("link: {type: macvlan, parent: eth1, mode: fast}, pools: [p]", &["spec.link.mode", "`bridge`"]),
        ("link: {type: ipvlan, parent: eth1}, pools: [p]", &["spec.link.type", "`macvlan`"]),
        ("link: {type: vlan, parent: eth1}, pools: [p]", &["needs id"]),
        ("link: {type: vlan, parent: eth1, id: 4095}, pools: [p]", &["spec.link.id", "4095", "1 to 4094"]),
        ("link: {type: vlan, parent: eth1, id: 0}, pools: [p]", &["spec.link.id", "1 to 4094"]),
        ("link: {type: vlan, parent: eth1, id: 1, mode: bridge}, pools: [p]", &["mode belongs to"]),
        ("link: {type: macvlan, parent: eth1, mtu: 60}, pools: [p]", &["spec.link.mtu", "68 to 65535"]),
        (
            "link: {type: macvlan, parent: eth1, mtu: 1000}, pools: [p, six]",
            &["spec.link.mtu", "1000", "1280"],
        ),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], addTimeout: 5m",
            &["spec.addTimeout", "5m", "230s"],
        ),
        ("link: {type: macvlan, parent: eth1}, pools: [p], addTimeout: soon", &["spec.addTimeout", "soon"]),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], settle: 1.5s",
            &["spec.settle", "1.5s", "whole numbers"],
        ),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], leakedAfter: 1s",
            &["spec.leakedAfter", "5s to 24h"],
        ),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], proxyMACs: [00-00-5e-00-53-01]",
            &["spec.proxyMACs", "colons"],
        ),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], sourceGuard: strict",
            &["spec.sourceGuard", "strict", "off or arp"],
        ),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], sourceGuardAllow: [192.0.2.0/24]",
            &["spec.sourceGuardAllow", "one address"],
        ),
        (
            "link: {type: macvlan, parent: eth1}, pools: [p], proxyMacs: []",
            &["spec.proxyMacs", "unknown field"],
        ),
    ] {
        let error = mistake(&(network(spec) + &pools));
        assert!(error.starts_with("test.yaml, document 1 (UnderlayNetwork lan): "), "{spec}\n{error}");
        for word in words {
            assert!(error.contains(word), "{spec}\nlacks {word:?}: {error}");
        }
    }
}

#[test]
fn a_source_guard_is_off_unless_it_is_declared() {
    let of = |more: &str| {
        let text = network(&format!("{MACVLAN}, pools: [p]{more}")) + &pool("p", "subnet: 192.0.2.0/24");
        config(&text).unwrap().networks[&"lan".parse().unwrap()].source_guard.clone()
    };
    for off in ["", ", sourceGuard: off", ", sourceGuardAllow: [192.0.2.7]"] {
        assert_eq!(of(off), None, "{off}");
    }
    assert_eq!(of(", sourceGuard: arp").map(|allowed| allowed.len()), Some(0));
    let allowed = of(", sourceGuard: arp, sourceGuardAllow: [192.0.2.7, '2001:db8::7']").unwrap();
    assert!(allowed.contains(&"2001:db8::7".parse().unwrap()) && allowed.len() == 2);
}

#[test]
fn objects_that_contradict_each_other_are_refused() {
    for (a, b, words) in [
        ("subnet: 192.0.2.0/24", "subnet: 192.0.2.0/25", &["overlap", "same subnet", "segment default"][..]),
        ("subnet: 192.0.2.0/24", "subnet: 192.0.2.0/24", &["share addresses"]),
        (
            "subnet: 192.0.2.0/24, ranges: [192.0.2.10-192.0.2.20]",
            "subnet: 192.0.2.0/24, ranges: [192.0.2.30-192.0.2.40], gateway: 192.0.2.15",
            &["gateway 192.0.2.15", "exclude it"],
        ),
        (
            "subnet: 198.51.100.0/24, gateway: 192.0.2.15, onlink: true",
            "subnet: 192.0.2.0/24",
            &["gateway 192.0.2.15", "exclude it"],
        ),
    ] {
        let error = mistake(&(pool("a", a) + &pool("b", b)));
        assert!(error.contains("document 2 (IPPool b) and test.yaml, document 1 (IPPool a)"), "{error}");
        for word in words {
            assert!(error.contains(word), "lacks {word:?}: {error}");
        }
    }
    let apart = pool("a", "subnet: 192.0.2.0/24") + &pool("b", "subnet: 192.0.2.0/24, segment: other");
    assert_eq!(config(&apart).unwrap().pools.len(), 2);
    let divided = pool("a", "subnet: 192.0.2.0/24, ranges: [192.0.2.1-192.0.2.9]")
        + &pool("b", "subnet: 192.0.2.0/24, ranges: [192.0.2.10-192.0.2.19]");
    assert_eq!(config(&divided).unwrap().pools.len(), 2);
}

#[test]
fn documents_that_are_no_declaration_are_refused() {
    for (text, words) in [
        ("a: [", &["document 1", "not valid YAML"][..]),
        ("a: 1\na: 2", &["not valid YAML", "duplicate"]),
        ("- 1", &["(whole document)"]),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}", &["\"v1\"", "\"Pod\"", "kind: IPPool"]),
        (
            "apiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata: {nam: x}\nspec: {}",
            &["metadata.nam", "unknown field"],
        ),
        ("apiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata: {name: x}\nspec: {}\nx: 1", &["key x"]),
    ] {
        let error = mistake(text);
        for word in words {
            assert!(error.contains(word), "{text}\nlacks {word:?}: {error}");
        }
    }
    let twice = pool("p", "subnet: 192.0.2.0/24") + &pool("p", "subnet: 198.51.100.0/24");
    let error = mistake(&twice);
    assert!(error.contains("document 2 (IPPool p): already declared in test.yaml, document 1"), "{error}");
}

#[test]
fn a_folder_is_read_in_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert!(matches!(load(folder.path()), Err(ApiError::NoFiles { .. })));
    write("2.yml", &pool("p", "subnet: 192.0.2.0/24"));
    write("1.yaml", &network("link: {type: macvlan, parent: eth1}, pools: [p]"));
    write("notes.txt", "not: [yaml");
    std::fs::create_dir(folder.path().join("3.yaml")).unwrap();
    let config = load(folder.path()).unwrap().into_config().unwrap();
    assert_eq!((config.networks.len(), config.pools.len()), (1, 1));

    write("9.yaml", &format!("# only a comment\n{}", pool("p", "subnet: 198.51.100.0/24")));
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("9.yaml, document") && error.contains("2.yml, document 1"), "{error}");
    assert!(matches!(load(&folder.path().join("none")), Err(ApiError::Read { .. })));
}

#[test]
fn definitions_carry_the_rules_and_bounds() {
    let crds = crds().unwrap();
    assert_eq!(crds.len(), 3);
    for (crd, words) in crds.iter().zip([
        &["name: underlaynetworks.berth.dev", "scope: Cluster", "1 to 4094", "maxItems: 16"][..],
        &[
            "name: ippools.berth.dev",
            "scope: Cluster",
            "self == oldSelf",
            "maxItems: 128",
            "default: default",
            "status: {}",
        ][..],
        &["name: ipleases.berth.dev", "scope: Cluster", "- blease", "jsonPath: .spec.node"][..],
    ]) {
        for word in words {
            assert!(crd.contains(word), "lacks {word:?}:\n{crd}");
        }
    }
}

#[test]
fn a_status_is_not_declared() {
    let text = pool("p", "subnet: 192.0.2.0/24") + "status: {total: 7}\n";
    let error = mistake(&text);
    assert!(
        error.contains("IPPool p") && error.contains("key status") && error.contains("remove it"),
        "{error}"
    );
}

#[test]
fn subnet_and_segment_cannot_be_changed() {
    use berth_api::types::{IPPool, IPPoolSpec};
    let pool = |segment: &str, subnet: &str| {
        let spec: IPPoolSpec =
            serde_json::from_value(serde_json::json!({"segment": segment, "subnet": subnet})).unwrap();
        IPPool::new("p", spec)
    };
    let old = pool("default", "192.0.2.0/24");
    assert!(pool("default", "192.0.2.0/24").validate_cel_update(&old).is_ok());
    assert!(pool("default", "192.0.2.0/25").validate_cel_update(&old).is_err());
    assert!(pool("other", "192.0.2.0/24").validate_cel_update(&old).is_err());
}

#[test]
fn a_selector_and_reservations_become_what_the_core_matches() {
    use berth_ipam::access::{Owner, Tenant, Test};
    let spec = "subnet: 192.0.2.0/24, \
                namespaceSelector: {matchLabels: {team: a}, matchExpressions: [{key: tier, operator: In, values: [x, y]}]}, \
                reservations: [{addresses: [192.0.2.7, 192.0.2.16/30], namespace: shop, podName: db-0}, \
                {addresses: [192.0.2.8], namespace: shop, owner: {kind: StatefulSet, name: db}}, \
                {addresses: [192.0.2.9], namespace: shop}]";
    let config = config(&pool("p", spec)).unwrap();
    let access = &config.pools.values().next().unwrap().access;
    let selector = access.selector.as_ref().unwrap();
    assert_eq!(selector.labels["team"], "a");
    assert_eq!(selector.requirements[0].test, Test::In(vec!["x".to_owned(), "y".to_owned()]));
    let of: Vec<_> = access.reservations.iter().map(|one| one.of.clone()).collect();
    let owner = Owner { kind: "StatefulSet".to_owned(), name: "db".to_owned() };
    assert_eq!(of, [Tenant::Pod("db-0".to_owned()), Tenant::Owner(owner), Tenant::Any]);
    assert_eq!(access.reserved(), 7);
}

#[test]
fn a_wrong_selector_or_reservation_is_told_with_key_and_value() {
    let one = |reservation: &str| {
        format!("subnet: 192.0.2.0/24, exclude: [192.0.2.99], reservations: [{reservation}]")
    };
    for (spec, parts) in [
        (one("{addresses: [192.0.2.99], namespace: shop}"), ["spec.reservations[0].addresses[0]", "does not give"]),
        (one("{addresses: [198.51.100.7], namespace: shop}"), ["198.51.100.7", "outside the subnet"]),
        (
            one("{addresses: [192.0.2.7], namespace: shop}, {addresses: [192.0.2.6-192.0.2.8], namespace: b}"),
            ["spec.reservations[1].addresses[0]", "in two reservations"],
        ),
        (
            one("{addresses: [192.0.2.7], namespace: shop, podName: a, owner: {kind: Job, name: b}}"),
            ["spec.reservations[0]", "for podName or for owner"],
        ),
        (one("{addresses: [192.0.2.7]}"), ["spec.reservations[0]", "namespace"]),
        (
            "subnet: 192.0.2.0/24, namespaceSelector: {matchExpressions: [{key: a, operator: In}]}".to_owned(),
            ["matchExpressions[0]", "need values"],
        ),
        (
            "subnet: 192.0.2.0/24, namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}"
                .to_owned(),
            ["matchExpressions[0]", "take none"],
        ),
        (
            "subnet: 'fd00::/64', reservations: [{addresses: ['fd00::1:0/112'], namespace: shop}]".to_owned(),
            ["at most 1024", "namespaceSelector"],
        ),
    ] {
        let error = mistake(&pool("p", &spec));
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

#[test]
fn without_a_cluster_what_only_a_cluster_knows_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pools.yaml");
    let read = |spec: &str| {
        std::fs::write(&file, pool("p", &format!("subnet: 192.0.2.0/24, {spec}"))).unwrap();
        load(&file).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(read("reservations: [{addresses: [192.0.2.7], namespace: shop, podName: a}]"), Ok(()));
    for (spec, key) in [
        ("namespaceSelector: {}", "spec.namespaceSelector"),
        (
            "reservations: [{addresses: [192.0.2.7], namespace: shop, owner: {kind: Job, name: b}}]",
            "spec.reservations[0].owner",
        ),
    ] {
        let error = read(spec).unwrap_err();
        assert!(
            error.contains(key) && error.contains("--store kubernetes") && error.contains("IPPool p"),
            "{error}"
        );
    }
}
