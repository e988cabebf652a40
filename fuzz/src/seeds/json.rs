//! Seeds that are text: actual output of runtimes, plugins and the agent, and some variations.

/// Configurations of each role and version, with every channel of a request.
pub fn conf() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"cniVersion":"1.1.0","name":"lan","type":"berth","network":"lan","socket":"/s","stateDir":"/d","addTimeout":"1m30s"}"#,
        r#"{"cniVersion":"0.4.0","name":"lan","type":"macvlan","master":"eth1","ipam":{"type":"berth","network":"lan"}}"#,
        r#"{"name":"lan","type":"berth","args":{"cni":{"ips":["10.0.0.2","fd00::2/64"],"mac":"02:00:00:00:00:01"}}}"#,
        r#"{"cniVersion":"1.0.0","name":"lan","type":"berth","runtimeConfig":{"ips":["10.0.0.3/24"],"mac":""},"dns":{}}"#,
        r#"{"cniVersion":"1.1.0","name":"lan","type":"berth","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#,
        r#"{"cniVersion":"1.1.0","name":"lan","type":"berth","cni.dev/attachments":null,"cni.dev/valid-attachments":[]}"#,
        r#"{"cniVersion":"1.0.0","name":"a.b-c_d","type":"berth","prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}]}}"#,
        r#"{"cniVersion":"9.9.9","name":"lan"}"#,
        r#"{"cniVersion":"","name":null,"type":7}"#,
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u1;IP=10.0.0.7,fd00::7/64;MAC=02:00:00:00:00:07",
        "[]",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Results of each shape.
pub fn prev_result() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.7/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::7/64"},"dns":{}}"#,
        r#"{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"version":"4","address":"10.0.0.7/24","interface":0}],"routes":[]}"#,
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01"}],"ips":[{"address":"fd00::7/64","gateway":""}],"routes":null}"#,
        r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/n","mtu":1400,"socketPath":"/s","pciID":"0","new":1}],
            "ips":[{"address":"10.0.0.7/24","interface":-1}],"routes":[{"dst":"::/0","gw":"fd00::1","mtu":1,"table":5,"scope":3}],"x":{}}"#,
        r#"{"ips":[{"address":"10.0.0.7/24"},{"address":"10.0.0.8/24"}],"ip4":null}"#,
        "{}",
    ];
    let versions = [0_u8, 1, 3, 5, 6];
    texts.iter().flat_map(|text| versions.map(|version| [&[version][..], text.as_bytes()].concat())).collect()
}

/// Lines of docs/protocol.md and of the agent, an entry of the spool, a sign of life, an alias.
pub fn message() -> Vec<Vec<u8>> {
    let attachment = r#""attachment":{"network":"lan","containerID":"c1","ifname":"eth0"}"#;
    let netns = r#""netns":{"cookie":"4711","inode":4026532621,"nsid":1804289383,"nsidIsRandom":true}"#;
    let txn = r#""txn":"5f0c6f4be2d14b0c9a3f9b1d2c7e8a10""#;
    let release = format!(r#""release":{{{attachment},"cniNetwork":"lan","role":"main","link":"gone"}}"#);
    let calls = [
        format!(
            r#"{{"lease":{{{txn},{attachment},"cniNetwork":"lan","role":"main",{netns},"pod":{{"namespace":"s","name":"w","uid":"0"}},"ips":["192.0.2.7"],"mac":"02:00:00:00:00:07","addTimeoutMs":110000}}}}"#
        ),
        format!(r#"{{"bind":{{{txn},{attachment},"ifindex":2,"mac":"b2:e8:80:43:59:e9"}}}}"#),
        format!(r#"{{"done":{{{txn},{attachment}}}}}"#),
        format!("{{{release}}}"),
        format!(r#"{{"check":{{{attachment}}}}}"#),
        r#"{"status":{"network":"lan"}}"#.to_owned(),
        r#""leases""#.to_owned(),
        r#"{"explain":{"address":"fd00::7"}}"#.to_owned(),
        r#"{"events":{"follow":true}}"#.to_owned(),
        r#"{"adminRelease":{"address":"192.0.2.7","force":false}}"#.to_owned(),
        r#"{"doctorUnderlay":{"parent":"eth1"}}"#.to_owned(),
    ];
    let answers = [
        r#""ok":{"lease":{"link":{"type":"macvlan","parent":"eth1","mode":"bridge"},"addresses":[{"address":"192.0.2.7/24","gateway":"192.0.2.1"}],"routes":[{"to":"0.0.0.0/0","via":"192.0.2.1"}],"acceptRA":false}}"#,
        r#""ok":{"lease":{"link":{"type":"vlan","parent":"eth1","id":100},"mtu":1400,"addresses":[],"routes":[],"acceptRA":true}}"#,
        r#""ok":"done""#,
        r#""ok":{"status":{"ready":false,"reasons":["parent eth1 is missing"]}}"#,
        r#""ok":{"leases":[{"network":"lan","cniNetwork":null,"pool":"p","segment":"default","address":"10.0.0.7","state":"bound","reason":"r","node":"n","containerID":"c1","ifname":"eth0","pod":null,"mac":"02:00:00:00:00:07","netnsCookie":"7","nsid":-1,"ifindex":2,"generation":1}]}"#,
        r#""ok":{"pools":[{"pool":"p","segment":"default","subnet":"10.0.0.0/24","total":"254","bound":1,"suspect":0,"held":0,"retained":0,"quarantined":0,"free":"253","waiting":0}]}"#,
        r#""ok":{"event":{"atMs":1,"agoMs":0,"kind":"verdict","code":"x","address":null,"attachment":"lan/c1/eth0","text":"t"}}"#,
        r#""ok":{"doctor":{"healthy":true,"checks":[{"what":"store","ok":true,"needsAHand":false,"text":"t"}]}}"#,
        r#""error":{"code":7,"msg":"network \"lam\" is not declared","details":"declare it"}"#,
    ];
    let calls = calls
        .iter()
        .map(|request| format!(r#"{{"v":1,"id":1,"request":{request}}}"#))
        .map(|line| tagged(0, &line));
    let answers = answers.iter().map(|outcome| tagged(1, &format!(r#"{{"v":1,"id":1,{outcome}}}"#)));
    let rest = [
        tagged(2, &format!(r#"{{{release},"bootId":"b50000fe-c412-4163-9534-ba3e0fa1d450"}}"#)),
        tagged(3, r#"{"bootId":"b","boottimeMs":7}"#),
        tagged(4, "berth:lan:c1:eth0:4711"),
    ];
    calls.chain(answers).chain(rest).collect()
}

fn tagged(kind: u8, text: &str) -> Vec<u8> {
    [&[kind][..], text.as_bytes()].concat()
}

/// Rows of a journal and a store that agree, that disagree, and that are alone.
pub fn record() -> Vec<Vec<u8>> {
    let common = r#""network":"lan","containerID":"c1","ifname":"eth0","cniNetwork":"lan","role":"main","txn":"t1","netns":{"cookie":"7","inode":7,"nsid":70001,"nsidIsRandom":true},"bootId":"boot","machineId":"m1","pod":{"namespace":"d","name":"p1","uid":"u1"},"mac":"02:00:00:00:00:07""#;
    let entry = |phase: &str, address: &str| {
        format!(
            r#"E{{{common},"phase":"{phase}","at":70001,"ifindex":2,"held":[{{"pool":"p","segment":"default","address":"{address}","generation":1}}],"fdbParent":"eth1","settle":{{"secs":2,"nanos":0}},"leakedAfter":null,"delSeen":false,"inhabited":true}}"#
        )
    };
    let lease = |address: &str| {
        format!(
            r#"{{"segment":"default","address":"{address}","pool":"p",{common},"node":"n1","generation":1}}"#
        )
    };
    let quarantined = r#"Q{"segment":"default","address":"10.0.0.12","pool":"p","macs":["02:00:00:00:00:09"],"reason":"answered","guard":{"holder":{"network":"lan","containerID":"c2","ifname":"eth0"},"macs":[],"fdbParent":"eth1"}}"#;
    let mut seeds = Vec::new();
    for phase in ["intent", "reserved", "bound", "done", "releasing"] {
        for (held, recorded) in
            [("10.0.0.11", "10.0.0.11"), ("10.0.0.11", "10.0.0.13"), ("fd00::7", "10.1.0.1")]
        {
            seeds.push(format!("{}\nR{}\n{quarantined}", entry(phase, held), lease(recorded)));
        }
    }
    seeds.push(format!(
        r#"V{{"version":{{"uid":"u","resourceVersion":"1"}},"record":{}}}"#,
        lease("10.0.0.14")
    ));
    seeds.push(quarantined.to_owned());
    seeds.into_iter().map(String::into_bytes).collect()
}
