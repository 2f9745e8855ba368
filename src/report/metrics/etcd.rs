//! Metrics of etcd's members and their databases.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    ports::Alarm,
    report::{EtcdReport, MemberState},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabel {
    member: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    member: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlarmLabel {
    member: String,
    alarm: &'static str,
}

/// Registers the metrics of etcd's members.
pub fn register(registry: &mut Registry, report: &EtcdReport) {
    let states = Family::<StateLabel, Gauge>::default();
    let alarms = Family::<AlarmLabel, Gauge>::default();
    let [leads, sizes, in_use, quotas] = [(); 4].map(|()| Family::<MemberLabel, Gauge>::default());
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    for member in &report.members {
        let name = &member.name;
        for state in [
            MemberState::Healthy,
            MemberState::Behind,
            MemberState::Silent,
        ] {
            let label = StateLabel {
                member: name.clone(),
                state: state.as_str(),
            };
            let is = i64::from(state == member.state);
            states.get_or_create(&label).set(is);
        }
        for alarm in [Alarm::NoSpace, Alarm::Corrupt] {
            let label = AlarmLabel {
                member: name.clone(),
                alarm: alarm.as_str(),
            };
            let is = i64::from(member.alarms.contains(&alarm));
            alarms.get_or_create(&label).set(is);
        }
        let label = MemberLabel {
            member: name.clone(),
        };
        leads.get_or_create(&label).set(member.leader.into());
        if let Some(database) = member.database {
            for (family, bytes) in [
                (&sizes, database.bytes),
                (&in_use, database.in_use),
                (&quotas, database.quota),
            ] {
                family.get_or_create(&label).set(number(bytes));
            }
        }
    }
    registry.register(
        "etcd_member_state",
        "1 for the state that a member of etcd is in",
        states,
    );
    registry.register("etcd_alarm", "1 for an alarm that a member raised", alarms);
    registry.register("etcd_leader", "1 for the member that leads", leads);
    for (name, help, family) in [
        (
            "etcd_database_size",
            "Size of a member's database file",
            sizes,
        ),
        (
            "etcd_database_in_use",
            "How much of the file holds data",
            in_use,
        ),
        ("etcd_database_quota", "Maximum size of the file", quotas),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, family);
    }
    let (defragmentations, ended) = <(Gauge, Gauge)>::default();
    defragmentations.set(number(report.defragmentations));
    ended.set(number(report.alarms_ended));
    registry.register(
        "etcd_defragmentations",
        "Members that this agent has defragmented since it started",
        defragmentations,
    );
    registry.register(
        "etcd_alarms_ended",
        "Alarms that this agent has cleared since it started",
        ended,
    );
}
