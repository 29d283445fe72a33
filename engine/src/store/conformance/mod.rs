//! The conformance suite: every promise of a store, as one case each. [`conformance!`] turns the cases into named tests of one
//! implementation, so the implementations cannot drift apart. If the docs of the trait get a new promise, add a case for it here.
//!
//! A case receives a [`Bench`]: an empty store, its hand-off, and a way to lose the process that holds both. It uses the store
//! only through the trait. Parts that only one implementation has (its tables, its file) are tested beside it.

pub mod accept;
pub mod attempts;
pub mod audit;
pub mod bench;
pub mod claims;
pub mod commands;
pub mod comparisons;
pub mod contention;
pub mod jobs;
pub mod model;
pub mod plugins;
pub mod reads;
pub mod retention;
pub mod runs;
pub mod scheduled;
pub mod settle;
pub mod sources;
pub mod stats;

/// The list of all cases. `conformance!(sqlite, SqliteBacking)` makes a module of tests that run the cases on that backing.
macro_rules! conformance {
    ($name:ident, $backing:ty) => {
        mod $name {
            use super::*;

            $crate::store::conformance::conformance! { @tests $backing;
                accept:
                    an_accepted_event_is_handed_over_and_survives_a_restart,
                    an_event_reads_back_as_it_was_sent,
                    events_of_one_request_are_handed_over_in_order,
                    a_repeated_id_is_answered_with_the_first_event,
                    an_id_with_another_type_is_refused,
                    a_refused_request_does_not_refuse_concurrent_requests,
                    a_published_event_cannot_use_the_ids_of_a_source,
                    a_repeated_id_is_noticed_after_a_restart,
                    an_event_without_an_id_is_never_a_repeat,
                    events_of_one_request_are_stored_all_or_none,
                    an_event_that_was_run_is_stored_with_its_results_or_without,
                    events_without_room_are_claimed_when_there_is_room,
                    new_events_do_not_starve_events_in_the_store,
                    ids_grow_and_are_never_issued_twice;
                settle:
                    a_settlement_takes_effect_as_a_whole,
                    a_failed_settlement_changes_nothing,
                    a_failed_settlement_affects_no_other,
                    a_settlement_of_many_megabytes_takes_effect,
                    a_lost_lease_is_refused_and_changes_nothing,
                    a_settlement_takes_effect_once,
                    a_settlement_from_before_a_crash_is_refused,
                    an_event_without_subscribers_is_unrouted,
                    new_deliveries_are_due_held_or_dead_as_requested,
                    a_webhook_to_a_deleted_endpoint_is_cancelled_and_names_its_run,
                    deliveries_without_room_wait_in_the_store,
                    a_deferred_run_settles_separately,
                    state_reads_see_the_last_commit,
                    state_expires_at_its_time_and_a_deletion_changes_no_read,
                    a_conflict_names_exactly_the_conflicting_runs,
                    a_value_deleted_and_written_again_has_a_new_version,
                    runs_of_one_plugin_in_one_settlement_conflict_over_a_key,
                    settlements_of_one_call_take_effect_in_order,
                    state_is_measured_exactly,
                    a_run_over_the_state_limit_is_named,
                    cleared_state_conflicts_with_runs_that_read_it,
                    keys_of_state_are_listed_in_order_by_prefix,
                    a_deleted_value_conflicts_with_a_run_that_read_it,
                    the_deliveries_of_an_event_are_limited;
                scheduled:
                    a_scheduled_event_is_accepted_when_it_is_due,
                    a_run_that_fails_schedules_nothing,
                    an_event_stays_while_its_scheduled_events_wait,
                    the_scheduled_events_of_a_plugin_are_limited,
                    a_cancelled_event_causes_nothing_more_across_its_chain,
                    a_withdrawn_delivery_leaves_the_memory;
                attempts:
                    an_attempt_and_the_next_state_are_one_change,
                    an_attempt_of_a_lost_lease_is_refused,
                    attempts_of_one_call_are_judged_separately,
                    operational_events_are_stored_with_their_attempt_or_not_at_all,
                    a_webhook_keeps_its_id_over_attempts_and_restarts,
                    a_waiting_delivery_can_be_retried_at_once,
                    a_finished_delivery_can_be_sent_again,
                    a_retry_does_not_change_a_delivery_that_is_being_sent,
                    a_refused_retry_names_the_reason,
                    retries_nothing_for_a_disabled_endpoint,
                    the_attempts_of_a_delivery_are_limited,
                    an_attempt_is_stored_with_the_endpoint_settings_that_it_used,
                    a_waiting_delivery_can_be_cancelled,
                    a_delivery_cancelled_during_an_attempt_stays_cancelled,
                    a_delivery_cancelled_before_its_turn_is_not_sent,
                    deliveries_waiting_for_a_disabled_endpoint_become_dead,
                    deliveries_waiting_for_a_deleted_endpoint_are_cancelled;
                claims:
                    an_expired_lease_is_claimable_again,
                    a_row_with_a_valid_lease_is_not_claimed,
                    a_restart_makes_everything_leased_due_again,
                    a_released_row_is_due_at_once,
                    releasing_a_lost_claim_changes_nothing,
                    retries_are_claimed_in_order_of_their_due_times,
                    due_runs_are_claimed_and_parked_ones_are_not,
                    runs_of_a_closed_queue_wait_in_the_store,
                    the_next_due_time_is_the_earliest,
                    every_row_that_becomes_due_wakes_the_claimer,
                    a_step_that_is_rolled_back_wakes_no_claimer,
                    a_paused_endpoint_is_not_claimed_until_it_is_resumed,
                    an_endpoint_with_a_backlog_does_not_delay_another,
                    a_claim_takes_only_as_much_as_there_is_room_for,
                    first_attempts_and_retries_share_the_room,
                    an_ordered_delivery_waits_for_the_one_before_it,
                    orders_of_one_endpoint_are_sent_side_by_side,
                    a_waiting_run_delays_ordered_deliveries_and_a_parked_one_does_not,
                    an_unreadable_row_does_not_delay_others;
                commands:
                    a_replay_is_a_new_round_with_new_ids,
                    a_replay_drops_waiting_runs_of_earlier_rounds,
                    a_refused_replay_names_the_reason,
                    a_plugin_that_loads_requeues_its_parked_runs,
                    runs_parked_for_a_missing_endpoint_are_requeued_once_it_exists,
                    an_endpoint_reads_back_and_is_changed_as_a_whole,
                    the_start_of_failing_is_stored_and_cleared,
                    secrets_open_after_a_change_of_the_master_key,
                    an_endpoints_name_is_unique_until_it_is_deleted,
                    an_endpoint_in_use_is_deleted_only_by_force,
                    operational_events_are_stored_with_their_deletion_or_not_at_all,
                    an_endpoints_state_changes_only_from_the_expected_state,
                    keys_are_created_listed_and_revoked,
                    a_keys_expiry_and_last_use_are_stored,
                    a_refusal_affects_no_other_caller;
                plugins:
                    the_latest_proposal_serves_and_survives_a_restart,
                    a_removed_plugin_stays_removed_until_it_is_proposed_again,
                    a_candidate_serves_only_once_it_is_promoted,
                    versions_beyond_the_limits_lose_their_bytes,
                    a_discarded_version_loses_its_bytes_and_its_comparisons,
                    a_halted_plugin_runs_again_when_it_is_enabled,
                    a_plugin_keeps_its_configuration_across_versions,
                    settings_are_numbered_revisions_and_wait_for_their_plugin;
                comparisons:
                    a_comparison_survives_a_restart_and_is_advanced_once,
                    a_cancelled_comparison_is_not_advanced,
                    running_comparisons_are_limited_and_listed;
                sources:
                    a_source_reads_back_and_is_changed_as_a_whole,
                    a_sources_name_is_unique_until_it_is_deleted,
                    requests_to_a_source_add_up_until_it_is_deleted,
                    secrets_of_a_source_open_after_a_change_of_the_master_key,
                    a_sealed_value_opens_for_its_context_only_and_after_a_restart,
                    the_request_of_an_event_is_stored_with_it;
                stats:
                    counts_add_up_by_minute_and_by_hour,
                    old_counts_are_deleted;
                reads:
                    the_state_of_an_event_follows_its_runs_and_deliveries,
                    events_are_listed_by_state,
                    an_event_with_several_failures_is_listed_once,
                    a_replay_replaces_the_finished_parts_of_an_event,
                    an_event_is_listed_by_the_state_of_its_last_replay,
                    events_are_listed_by_type_and_source,
                    events_are_listed_by_time,
                    events_come_in_pages_newest_first,
                    lists_merge_waiting_and_finished_deliveries,
                    deliveries_are_listed_by_endpoint_event_and_state,
                    a_history_shows_runs_deliveries_and_attempts,
                    a_history_comes_in_parts_of_bounded_size,
                    a_history_shows_the_last_attempts_and_a_delivery_shows_all,
                    runs_and_deliveries_of_an_event_at_one_endpoint_are_read_together,
                    a_list_is_one_snapshot,
                    an_unreadable_row_is_named,
                    a_missing_row_is_not_found,
                    a_probe_succeeds_when_writes_do,
                    the_load_counts_waiting_work_by_stage,
                    the_backlog_of_an_endpoint_is_what_is_not_finished;
                retention:
                    a_finished_event_is_deleted_after_its_time,
                    unfinished_events_are_never_deleted,
                    dead_and_parked_events_are_deleted_later,
                    unfinished_events_do_not_delay_retention,
                    an_id_is_remembered_for_the_window_of_repeats,
                    ids_are_not_issued_again_after_every_event_is_deleted,
                    unrouted_events_are_deleted_after_a_separate_time,
                    each_kind_of_event_has_a_separate_time,
                    a_full_store_evicts_the_oldest_finished_events,
                    the_state_of_plugins_evicts_no_event,
                    a_deleted_endpoint_is_forgotten_with_its_last_event;
                audit:
                    a_change_is_recorded_before_it_is_made,
                    an_entry_of_a_change_that_was_not_made_is_withdrawn,
                    the_trail_is_filtered_and_comes_in_pages,
                    old_entries_are_deleted;
                jobs:
                    a_job_retries_the_deliveries_of_its_filter,
                    a_job_or_a_resume_makes_waiting_retries_due,
                    a_job_retries_each_delivery_once_despite_crashes,
                    a_retried_delivery_is_due_and_wakes_the_claimer,
                    deliveries_created_after_a_job_are_left_out,
                    a_job_counts_the_deliveries_that_it_could_not_retry,
                    a_cancelled_job_stops,
                    the_number_of_running_jobs_is_limited,
                    an_ended_job_is_deleted_after_its_time;
                runs:
                    a_run_is_stored_with_everything_that_it_read,
                    a_failed_run_is_recorded_too_and_its_last_try_counts,
                    recorded_runs_of_a_plugin_come_in_pages_newest_first,
                    a_follower_sees_each_new_run_once_in_order_and_waits_for_unfinished_ones,
                    a_retried_run_runs_again_and_nothing_else_of_its_event_does,
                    a_waiting_run_can_be_retried_at_once,
                    a_run_parked_for_an_endpoint_can_be_retried_before_it_exists,
                    a_refused_retry_of_a_run_names_the_reason,
                    a_cancelled_run_has_no_effects_and_can_be_retried,
                    a_cancelled_run_no_longer_delays_ordered_deliveries,
                    runs_are_listed_by_state_plugin_event_and_time,
                    a_job_retries_each_parked_run_once_whenever_the_process_ends,
                    a_job_retries_the_runs_that_its_filter_selects,
                    a_job_replays_the_events_that_its_filter_selects;
                contention:
                    concurrent_workers_lose_and_duplicate_nothing;
                model:
                    random_steps_lose_and_duplicate_nothing;
            }
        }
    };
    (@tests $backing:ty; $($noun:ident: $($case:ident),+;)+) => {
        $(
            mod $noun {
                use super::*;

                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        let bench = $crate::store::conformance::bench::Bench::on(<$backing>::empty()).await;
                        $crate::store::conformance::$noun::$case(&bench).await;
                    }
                )+
            }
        )+
    };
}
pub(crate) use conformance;
