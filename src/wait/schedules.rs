//! Every retry schedule of the agent and every period of its loops, with the reasons.
//!
//! Deadlines are elsewhere: they belong to the step or the call that waits, or to the settings.

use std::time::Duration;

use super::{Jitter, Schedule};

// Waits for a state: `wait::until`.

/// Something on this machine or in its cluster, such as containerd, etcd or the API server: a probe
/// costs little, and short pauses make a boot fast.
pub const LOCAL: Schedule = Schedule {
    first: Duration::from_millis(100),
    factor: 1.5,
    longest: Duration::from_secs(2),
    jitter: Jitter::Equal,
    attempts: None,
};

/// Services with rate limits, which many nodes ask at the same time: the EC2 API, registries, the
/// join service.
pub const REMOTE: Schedule = Schedule {
    first: Duration::from_millis(500),
    factor: 1.5,
    longest: Duration::from_secs(5),
    jitter: Jitter::Equal,
    attempts: None,
};

// Whole phases, and the whole agent.

/// A phase that failed with an error that may pass by itself, until the phase's deadline.
pub const PHASE: Schedule = Schedule {
    first: Duration::from_secs(1),
    factor: 2.0,
    longest: Duration::from_secs(30),
    jitter: Jitter::Equal,
    attempts: None,
};

/// A phase that failed with an error that a person must fix unless it passes: five minutes show
/// whether it does, and need few attempts.
pub const DOUBTFUL_PHASE: Schedule = Schedule {
    first: Duration::from_secs(5),
    longest: Duration::from_mins(1),
    ..PHASE
};

/// An agent with an error that a person must fix, on a node that is not in use. A node in use keeps
/// to the first pause, since nobody repairs it meanwhile. There is no jitter: nodes do not start
/// together, and the calls of each attempt have their own.
pub const REFUSAL: Schedule = Schedule {
    first: Duration::from_secs(30),
    factor: 2.0,
    longest: Duration::from_mins(5),
    jitter: Jitter::None,
    attempts: None,
};

/// An add-on that the leader could not apply. There is no jitter: one node leads, and looks at its
/// add-ons only once per [`CYCLE`].
pub const ADDON: Schedule = Schedule {
    first: Duration::from_secs(30),
    factor: 2.0,
    longest: Duration::from_mins(10),
    jitter: Jitter::None,
    attempts: None,
};

// Single calls: `Backoff::begin`.

/// A call to AWS that was throttled or got no answer. Nodes that were throttled together must not
/// retry together, hence full jitter:
///
/// ```text
/// before attempt   2    3    4    5    6    7     8
/// at most        0.5    1    2    4    8   16    20 s
/// ```
///
/// If the error lasts longer, the caller's own, slower wait retries.
pub const AWS: Schedule = Schedule {
    first: Duration::from_millis(500),
    factor: 2.0,
    longest: Duration::from_secs(20),
    jitter: Jitter::Full,
    attempts: Some(8),
};

/// A request to the metadata service. It is on the same host and answers within milliseconds once
/// the network is up, so the first pauses are short.
pub const METADATA: Schedule = Schedule {
    first: Duration::from_millis(100),
    factor: 2.0,
    longest: Duration::from_secs(5),
    jitter: Jitter::Equal,
    attempts: None,
};

/// An object that the API server does not accept yet: a webhook's pod is starting, or a kind is
/// not served. There is no jitter: one node at a time applies objects.
pub const APPLY: Schedule = Schedule {
    first: Duration::from_millis(200),
    factor: 2.0,
    longest: Duration::from_secs(5),
    jitter: Jitter::None,
    attempts: None,
};

/// A download that broke off; the pauses start over whenever bytes arrived. Resuming at once is
/// right after a lost connection, and wrong while a mirror is overloaded.
pub const DOWNLOAD: Schedule = Schedule {
    first: Duration::from_millis(200),
    factor: 2.0,
    longest: Duration::from_secs(10),
    jitter: Jitter::Added,
    attempts: None,
};

// Pauses that stay the same.

/// After a listener could not accept a connection, usually out of file descriptors: existing
/// connections must continue, and trying again at once would keep a CPU busy.
pub const ACCEPT: Duration = Duration::from_millis(100);

/// After a failed cycle of certificate approval, such as throttling by EC2. Pending requests are
/// then reported again; a joining kubelet waits for its own.
pub const APPROVAL: Duration = Duration::from_secs(1);

/// After a backup failed: a small part of any sensible interval between backups.
pub const BACKUP: Duration = Duration::from_mins(5);

/// How long a member of etcd is left alone after a defragmentation, whatever the result: it answers
/// nothing while it is defragmented.
pub const AFTER_DEFRAGMENTATION: Duration = Duration::from_hours(1);

// Periods of loops: `wait::Every`. What fails in one cycle is tried again in the next.

/// How often a node checks its peers and its own condition, and the leader its add-ons and backups.
pub const CYCLE: Duration = Duration::from_secs(30);

/// How often every phase is checked again, including digests of programs.
pub const FULL_CHECK: Duration = Duration::from_hours(1);

/// How often etcd members and Nodes are compared with EC2; a joining successor waits for it.
pub const HEALING: Duration = Duration::from_secs(10);

/// How often the leader looks for Nodes of instances that have left.
pub const LEFT_NODES: Duration = Duration::from_secs(10);

/// How often the leader checks the workers in DNS: two checks and a write fit into 30 s.
pub const DNS: Duration = Duration::from_secs(10);

/// How often the leader compares the published keys of tokens with the API server's: new keys are
/// published before they sign.
pub const ISSUER: Duration = Duration::from_mins(1);

/// How often certificates are checked.
pub const CERTIFICATES: Duration = Duration::from_secs(10);

/// How often to poll the metadata service for notices, as EC2's documentation advises.
pub const NOTICES: Duration = Duration::from_secs(5);

/// While a cluster is not settled: how often its nodes check whether it was abandoned, and its
/// founder whether it is used.
pub const UNSETTLED: Duration = Duration::from_secs(30);

/// The time between two probes of an API server by the balancer.
pub const API_SERVERS: Duration = Duration::from_secs(2);

/// How often `status --watch` asks the agent.
pub const STATUS: Duration = Duration::from_secs(1);
