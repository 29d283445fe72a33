//! What every store promises, each case once. [`conformance!`] stamps them as named tests for one implementation, so that the
//! implementations cannot drift apart. A new promise in the trait's docs is a new case here.
//!
//! A case is given a [`Bench`]: an empty store, its hand-off, and a way to lose the process that holds both. It talks to the
//! store through the trait alone; what only one implementation has (its tables, its file) is tested beside it.

pub mod accept;
pub mod attempts;
pub mod audit;
pub mod bench;
pub mod claims;
pub mod contention;
pub mod jobs;
pub mod model;
pub mod people;
pub mod reads;
pub mod retention;
pub mod settle;
pub mod sources;

/// The one list of all cases. `conformance!(sqlite, SqliteBacking)` makes a module of tests that run them on that backing.
macro_rules! conformance {
    ($name:ident, $backing:ty) => {
        mod $name {
            use super::*;

            $crate::store::conformance::conformance! { @tests $backing;
                accept:
                    an_accepted_event_is_handed_over_and_survives_a_restart,
                    an_event_reads_back_as_it_was_sent,
                    events_that_come_together_are_handed_over_in_order,
                    a_repeated_id_is_answered_with_the_first_event,
                    an_id_with_another_type_is_refused,
                    one_refused_call_does_not_refuse_those_beside_it,
                    a_published_event_cannot_take_the_place_of_a_sources,
                    a_repeated_id_is_noticed_after_a_restart,
                    an_event_without_an_id_is_never_a_repeat,
                    events_that_come_together_are_stored_all_or_none,
                    what_finds_no_room_is_claimed_when_there_is_room,
                    events_that_wait_in_the_store_are_not_overtaken_for_ever,
                    ids_go_up_and_are_never_issued_twice;
                settle:
                    a_settlement_takes_effect_as_a_whole,
                    a_settlement_that_breaks_in_its_middle_changes_nothing,
                    a_settlement_that_breaks_disturbs_nobody_else,
                    a_settlement_of_many_megabytes_takes_effect,
                    a_lost_lease_is_refused_and_changes_nothing,
                    a_settlement_takes_effect_once,
                    a_settlement_from_before_a_crash_is_refused,
                    an_event_that_nobody_wants_is_unrouted,
                    deliveries_are_born_as_they_are_asked_to_be,
                    deliveries_without_room_wait_in_the_store,
                    a_run_of_its_own_settles_for_itself,
                    state_reads_see_the_last_commit,
                    a_conflict_names_exactly_the_runs_that_lost,
                    a_value_deleted_and_written_again_is_another_value,
                    runs_of_one_plugin_in_one_settlement_see_each_other,
                    settlements_of_one_call_follow_each_other,
                    state_is_measured_exactly,
                    a_run_that_would_keep_too_much_state_is_named,
                    cleared_state_is_gone_and_a_run_that_read_it_is_told,
                    an_event_has_only_so_many_deliveries;
                attempts:
                    an_attempt_and_what_follows_are_one_change,
                    an_attempt_of_a_lost_lease_is_refused,
                    attempts_of_one_call_are_judged_one_by_one,
                    what_tells_of_an_attempt_is_stored_with_it_or_not_at_all,
                    a_webhook_keeps_its_id_over_attempts_and_restarts,
                    a_waiting_delivery_can_be_retried_at_once,
                    a_finished_delivery_can_be_sent_again,
                    a_delivery_on_its_way_is_left_alone_by_a_retry,
                    what_cannot_be_retried_says_why,
                    retries_nothing_for_a_disabled_endpoint,
                    a_delivery_has_only_so_many_attempts,
                    a_waiting_delivery_can_be_cancelled,
                    a_delivery_cancelled_on_its_way_stays_cancelled,
                    a_delivery_cancelled_before_its_turn_is_not_sent,
                    what_waits_for_a_disabled_endpoint_is_buried_as_dead,
                    what_waits_for_a_deleted_endpoint_is_cancelled;
                claims:
                    an_expired_lease_is_claimable_again,
                    a_lease_that_holds_is_not_claimed,
                    a_restart_makes_everything_leased_due_again,
                    what_is_given_back_is_due_at_once,
                    giving_back_a_lost_claim_changes_nothing,
                    retries_come_when_they_are_due_and_in_that_order,
                    waiting_runs_come_when_they_are_due_and_parked_ones_do_not,
                    the_next_due_time_is_the_earliest,
                    whatever_becomes_due_rings_the_alarm,
                    a_step_that_is_undone_wakes_no_claimer,
                    a_paused_endpoint_is_not_claimed_until_it_is_resumed,
                    an_endpoint_with_a_backlog_does_not_hold_up_another,
                    what_is_claimed_fits_into_the_room_there_is,
                    first_attempts_and_retries_share_the_room,
                    what_goes_in_order_waits_for_what_is_before_it,
                    orders_of_one_endpoint_go_side_by_side,
                    a_waiting_run_holds_what_goes_in_order_and_a_parked_one_does_not,
                    a_row_that_cannot_be_read_holds_up_nobody_else;
                people:
                    a_replay_is_a_new_round_with_new_ids,
                    a_replay_drops_what_earlier_rounds_left_waiting,
                    what_cannot_be_replayed_says_why,
                    a_plugin_that_loads_drives_the_runs_that_missed_it,
                    an_endpoint_that_there_is_drives_the_runs_that_named_it,
                    an_endpoint_reads_back_and_is_changed_as_a_whole,
                    failing_is_noted_and_forgotten,
                    a_new_master_key_opens_what_the_old_one_sealed,
                    an_endpoints_name_is_unique_until_it_is_deleted,
                    what_tells_of_a_deletion_is_stored_with_it_or_not_at_all,
                    an_endpoints_state_changes_only_from_what_was_expected,
                    a_plugin_keeps_its_configuration_across_versions,
                    keys_are_created_listed_and_revoked,
                    a_key_keeps_its_end_and_its_last_use,
                    a_refusal_disturbs_nobody_else;
                sources:
                    a_source_reads_back_and_is_changed_as_a_whole,
                    a_sources_name_is_unique_until_it_is_deleted,
                    a_new_master_key_opens_what_the_old_one_sealed_of_a_source,
                    the_request_of_an_event_is_kept_with_it;
                reads:
                    an_event_shows_what_it_has_come_to,
                    events_are_listed_by_state,
                    events_are_listed_by_type_and_source,
                    events_are_listed_by_time,
                    events_come_in_pages_newest_first,
                    deliveries_merge_what_waits_and_what_is_finished,
                    deliveries_are_listed_by_endpoint_event_and_state,
                    a_story_tells_everything,
                    a_story_comes_in_parts_of_bounded_size,
                    a_story_has_the_last_attempts_and_a_delivery_all_of_them,
                    a_list_shows_one_moment,
                    a_row_that_cannot_be_read_is_named,
                    what_does_not_exist_is_not_found,
                    a_probe_says_that_writing_works,
                    the_load_says_what_waits_where;
                retention:
                    a_finished_event_leaves_after_its_time,
                    what_is_unfinished_never_leaves,
                    what_is_dead_or_parked_leaves_later,
                    unfinished_events_do_not_hold_up_retention,
                    an_id_is_remembered_for_its_window,
                    ids_are_not_issued_again_after_everything_has_left,
                    what_nobody_wanted_leaves_after_its_own_time,
                    each_kind_leaves_after_its_own_time,
                    a_full_store_lets_the_oldest_finished_events_go,
                    a_plugins_state_makes_no_event_leave,
                    a_deleted_endpoint_is_forgotten_with_its_last_event;
                audit:
                    a_change_is_noted_before_it_is_made,
                    an_entry_of_a_change_that_was_not_made_is_withdrawn,
                    the_trail_is_filtered_and_comes_in_pages,
                    old_changes_leave_the_trail;
                jobs:
                    a_job_takes_up_what_its_filter_means,
                    a_job_takes_up_each_delivery_once_whatever_ends_in_between,
                    what_is_taken_up_again_is_due_and_rings,
                    what_comes_into_being_after_a_job_is_not_meant,
                    a_job_counts_what_it_could_not_send,
                    a_job_that_is_called_off_goes_no_further,
                    only_so_many_jobs_run_at_once,
                    a_job_that_has_ended_leaves_after_its_time;
                contention:
                    many_hands_at_once_lose_and_double_nothing;
                model:
                    whatever_happens_in_whatever_order_nothing_is_lost_or_doubled;
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
