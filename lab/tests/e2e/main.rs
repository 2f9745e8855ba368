//! End to end: one control plane and two workers, created from their user-data alone, and what can
//! happen to them afterwards.
//!
//! The scenarios share one cluster and run in this order; `SCENARIOS` selects some of them. If the
//! machine cannot run the lab they are skipped with the reason; with CI=true they fail instead.

mod asking;
mod scenarios;
mod stage;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::stage::Stage;

/// Its module, its name and what it does.
type Scenario = (&'static str, &'static str, fn(&Stage) -> Result<(), Failed>);

/// Lists the scenarios by their module under `scenarios`; each test has its scenario's name.
macro_rules! in_this_order {
    ($($room:ident::$name:ident),* $(,)?) => {
        &[$((stringify!($room), stringify!($name), scenarios::$room::$name)),*]
    };
}

/// The scenarios in the order of a cluster's life.
#[rustfmt::skip] // one scenario a line, to be read as a list
const SCENARIOS: &[Scenario] = in_this_order![
    arrival::the_binary_is_static_and_small,
    arrival::three_instances_become_a_cluster,
    arrival::a_worker_becomes_ready_with_little_work,
    vm::a_virtual_machine_is_launched_next_to_the_others,
    own_kernel::a_machine_with_its_own_kernel_boots_next_to_the_others,
    arrival::every_pod_of_kube_system_is_ready,
    arrival::the_network_is_as_strict_and_as_wide_as_a_vpc,
    arrival::pods_on_different_workers_reach_each_other_by_name,
    pods::a_pod_reaches_neither_the_metadata_nor_what_control_planes_keep,
    pods::services_outlive_a_kube_proxy_that_is_started_again,
    pods::an_image_of_a_private_registry_is_pulled_with_a_login_of_the_instances_role,
    pods::an_image_is_pulled_with_a_login_of_the_settings,
    workload::each_worker_serves_the_page_and_the_count_rises,
    reports::the_printed_kubeconfig_reaches_the_api_from_another_machine,
    vm::its_pods_wait_for_it,
    workload::the_workers_name_stands_for_exactly_the_ready_ones,
    workload::a_terminated_worker_leaves_without_a_visitor_noticing,
    metrics::kubectl_top_tells_what_nodes_and_pods_use,
    metrics::more_visits_get_more_pods,
    certificates::a_cluster_whose_certificates_live_ten_minutes_is_launched,
    joining::nothing_is_left_that_would_let_anybody_in,
    joining::kubelets_serve_with_certificates_of_the_clusters_ca,
    reports::systemctl_status_says_ready_and_why,
    reports::the_journal_carries_phase_and_duration,
    reports::http_and_status_tell_the_same,
    reports::plan_finds_nothing_to_do_and_changes_nothing,
    etcd::etcd_members_tells_what_etcdctl_tells,
    reports::the_agent_asked_metadata_by_token_only,
    certificates::it_is_switched_off,
    life::a_restarted_agent_changes_nothing,
    life::a_removed_file_is_put_back,
    proxy::a_control_plane_behind_a_proxy_founds_its_cluster,
    air_gap::a_cluster_without_registries_comes_from_its_bundle,
    stack::every_kind_of_template_passes_cfn_lint,
    stack::a_stack_becomes_a_cluster_that_serves_the_page,
    stack::its_security_groups_open_what_nodes_need_and_no_more,
    pod_roles::its_pods_have_roles_of_their_own,
    stack::its_groups_scale_and_replace_their_instances,
    stack::a_deleted_stack_takes_its_instances_along,
    metrics::fewer_visits_leave_two_pods_and_none_has_failed,
    life::a_fourth_node_joins_from_another_zone_on_a_bad_day_of_aws,
    life::a_killed_agent_resumes_where_it_was,
    life::a_spot_notice_empties_the_node,
    life::a_group_waits_for_its_node_to_leave,
    life::a_reset_worker_leaves_and_may_join_again,
    life::a_rebooted_node_comes_back,
    life::a_stopped_node_comes_back,
    workload::the_count_goes_on_after_redis_and_its_machine_restart,
    life::the_api_of_ec2_restarts_and_nobody_minds,
    own_kernel::it_is_prepared_with_the_defaults_and_waits_for_a_cluster,
    own_kernel::its_networkd_leaves_what_belongs_to_pods_alone,
    vm::a_virtual_machine_joins_with_the_defaults,
    vm::its_pods_reach_others_while_networkd_restarts,
    vm::pods_on_its_own_network_do_not_reach_the_metadata,
    vm::it_reboots,
    control_planes::founders_die_before_and_after_they_have_recorded_their_clusters,
    refusals::a_wrong_role_tag_is_refused,
    refusals::a_missing_cluster_tag_is_refused,
    refusals::tags_and_the_name_that_metadata_lack_come_from_ec2,
    refusals::a_wrong_digest_is_refused_and_leaves_nothing,
    refusals::cgroup_v1_is_refused_without_the_override,
    refusals::a_pod_range_of_the_vpc_is_refused,
    refusals::a_node_in_use_outlives_what_its_agent_refuses,
    refusals::run_without_root_is_refused,
    attacks::the_join_service_lets_nobody_be_more_than_itself,
    attacks::a_persons_token_makes_no_node,
    attacks::a_joiners_token_makes_no_other_node,
    attacks::a_kubelets_credentials_make_no_other_node,
    control_planes::their_followers_have_founded_clusters_of_their_own,
    permissions::control_planes_that_their_group_ends_name_each_action_that_their_policy_lacks,
    refusals::a_denied_call_names_the_permission,
    permissions::a_worker_names_each_action_that_its_policy_lacks,
    permissions::a_control_plane_names_each_action_that_its_policy_lacks,
    permissions::a_control_plane_names_the_action_that_a_record_in_tags_needs,
    permissions::nodes_name_each_action_that_a_record_in_a_bucket_needs,
    permissions::the_leader_names_each_action_that_the_workers_name_needs,
    permissions::a_backup_names_each_action_that_its_policy_lacks,
    vm::a_rebooted_virtual_machine_comes_back,
    vm::a_terminated_virtual_machine_leaves,
    etcd::backups_are_taken_by_schedule_and_the_oldest_go,
    etcd::a_full_etcd_takes_writes_again_by_itself,
    permissions::nodes_that_their_group_ends_leave_and_name_each_action_that_their_policy_lacks,
    control_planes::without_any_api_server_a_node_says_so_and_recovers,
    control_planes::two_more_control_planes_join_at_once,
    control_planes::a_request_after_the_death_of_an_api_server_goes_through,
    certificates::certificates_are_renewed_without_a_failed_request,
    control_planes::a_terminated_founder_is_replaced,
    record::a_lost_record_is_written_again_and_no_node_resets_itself,
    record::a_control_plane_with_another_store_founds_nothing_and_names_the_cluster,
    control_planes::a_reset_control_plane_leaves_etcd_and_may_join_again,
    certificates::it_comes_back_after_every_certificate_has_expired,
    disaster::the_cluster_comes_back_from_a_backup,
    life::down_leaves_nothing_behind,
];

/// The scenarios that found and end the cluster; they run with every selection.
const ALWAYS: [&str; 2] = [
    "three_instances_become_a_cluster",
    "down_leaves_nothing_behind",
];

/// The room of scenarios that run only if they are named: an emulated processor would take five to
/// ten minutes from the others. `make e2e-vm` runs them alone.
const BY_NAME_ONLY: &str = "vm";

/// The scenarios in `names`, separated by spaces, in the order of their list; if it is empty, all
/// that do not need to be named.
fn chosen(names: &str) -> Result<Vec<&'static Scenario>, String> {
    let names: Vec<&str> = names.split_whitespace().collect();
    let known = |name: &str| SCENARIOS.iter().any(|(_, known, _)| *known == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(format!("SCENARIOS: there is no scenario `{unknown}`"));
    }
    let wanted = |(room, name, _): &&Scenario| {
        let by_default = names.is_empty() && *room != BY_NAME_ONLY;
        by_default || names.contains(name) || ALWAYS.contains(name)
    };
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

fn main() {
    let chosen = chosen(&std::env::var("SCENARIOS").unwrap_or_default());
    let chosen = chosen.unwrap_or_else(|unknown| {
        eprintln!("{unknown}");
        std::process::exit(2)
    });
    let mut arguments = Arguments::from_args();
    // One cluster, so one test after the other.
    arguments.test_threads = Some(1);
    let unable = stage::why_not_here();
    if let Some(why) = &unable {
        eprintln!("SKIPPED: all end-to-end tests, because {why}");
    }
    let required = std::env::var("CI").is_ok_and(|ci| ci == "true");
    if required && unable.is_none() {
        Stage::shared().clear_remains();
    }
    let trials = chosen
        .into_iter()
        .map(|(_, name, scenario)| {
            let why = unable.clone();
            let ignored = why.is_some() && !required;
            Trial::test(*name, move || match why {
                Some(why) => Err(why.into()),
                None => Stage::shared().play(name, *scenario),
            })
            .with_ignored_flag(ignored)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    Stage::leave(conclusion.has_failed());
    conclusion.exit();
}
