//! Every text of the dashboard, once per language: `en.rs` and `it.rs` fill the same types, so a missing text does not compile. A
//! test finds texts that no page uses. [`Formats`] writes numbers, times and sizes by the rules of the language.
//!
//! A text with parts is a function. Its numbers arrive formatted. The page writes untrusted text beside the text with
//! `foreign.rs`, or isolates it before it passes it as a part.

mod en;
mod formats;
mod it;

pub use self::formats::Formats;

/// A language of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    En,
    It,
}

impl Lang {
    pub const ALL: [Self; 2] = [Self::En, Self::It];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::It => "it",
        }
    }

    /// Returns the language's name in the language itself.
    pub const fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::It => "Italiano",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lang| lang.as_str() == text)
    }

    /// Returns the first known language of an `Accept-Language` header, else English.
    pub fn accepted(header: &str) -> Self {
        let words = header.split(',').filter_map(|part| part.trim().split([';', '-']).next());
        words.filter_map(Self::parse).next().unwrap_or(Self::En)
    }

    pub const fn texts(self) -> &'static Texts {
        match self {
            Self::En => &en::TEXTS,
            Self::It => &it::TEXTS,
        }
    }
}

/// Declares the types of all texts: a section is a struct, a text is a `&'static str`, a text with parts is a function of its parts.
macro_rules! texts {
    ($($(#[$doc:meta])* $section:ident: $kind:ident { $($(#[$note:meta])* $name:ident $(($($part:ident),+))?,)+ })+) => {
        /// All texts of one language.
        pub struct Texts {
            $($(#[$doc])* pub $section: $kind,)+
        }

        $(
            $(#[$doc])*
            pub struct $kind {
                $($(#[$note])* pub $name: texts!(@type $($($part)+)?),)+
            }
        )+

        #[cfg(test)]
        const NAMES: &[(&str, &[&str])] = &[$((stringify!($section), &[$(stringify!($name)),+])),+];
    };
    (@type) => { &'static str };
    (@type $one:ident) => { fn(&str) -> String };
    (@type $one:ident $two:ident) => { fn(&str, &str) -> String };
    (@type $one:ident $two:ident $three:ident) => { fn(&str, &str, &str) -> String };
    (@type $one:ident $two:ident $three:ident $four:ident) => { fn(&str, &str, &str, &str) -> String };
}

texts! {
    /// The frame around every page.
    frame: Frame {
        skip, now, events, deliveries, endpoints, plugins, sources, settings, menu, search, search_label, live, live_ago(age),
        stale(time), local, utc, times_label, theme, keys_help, sign_out, needs_you_count(number), failing_count(number), copy,
        copied, close, older, newest_first,
    }

    /// Words for the states of the API. In some languages an adjective agrees with its noun, so one state can have several words.
    states: States {
        event_waiting, event_retrying, event_failed, event_delivered, event_nothing_sent, event_unrouted, delivery_pending,
        delivery_retrying, delivery_delivered, delivery_dead, delivery_cancelled, run_ok, run_failed, run_trapped, run_deadline,
        run_out_of_memory, run_bad_output, run_not_loadable, run_waiting, run_parked, run_cancelled, answered, timed_out, refused,
        reset, unreachable, name_not_found, blocked, tls_failed, body_too_large, of(part, all), endpoint_active, endpoint_failing,
        endpoint_paused, endpoint_disabled, plugin_serving, plugin_candidate, plugin_disabled, plugin_held, plugin_not_loadable,
    }

    /// Words that several pages use.
    common: Common {
        retry, retry_now, replay, cancel, open, type_, source, state, subject, size, id, time, at, outcome, took, answer, apply,
        clear_all, download, request, headers, status, needs_role(role), previous,
    }

    /// Signing in.
    sign_in: SignIn {
        title(host), key, printed, long, else_hours(hours), button, missing, unknown, expired(time), role(role), foreign, link_used,
    }

    /// Problems that are shown as a page.
    wrong: Wrong {
        not_found, not_found_why, not_found_event(id), forbidden, forbidden_why, conflict, conflict_why, bad_request, unavailable,
        unavailable_why, overloaded, internal, internal_why, other, says, small(code, time), to_now, to_events, try_now,
        again_in(seconds),
    }

    /// The list of events.
    events: Events {
        title, send, send_title, send_why, send_data, send_data_hint, send_button, send_not_json(why), any_such_as, any_source, any_state, time_all, time_hour, time_day, time_week, id_label, id_hint, accepted,
        subject_or_id, none_yet, none_yet_why, none_match, none_match_why, none_so_far, only, type_is, source_is, state_is, id_is, time_is,
        clear(filter), new_event, new_events(number), caption, accepted_number(number), in_span(span), in_span_from(span, source), per(span),
        say_bar(time, all, failed), since_is, until_is,
    }

    /// The page of one event.
    event: Event {
        callers_id, subject, cause, depth_of(number), path_from, path_ran, path_sent, subscription, direct, and_more(number),
        and_more_events(number), nothing_until_retry, received, through_api, verified, data, pretty, raw, log(number),
        log_dropped(number, dropped), asked_webhooks(number), asked_webhook, asked_events(number), asked_event, asked_nothing,
        for_endpoint(name), parked_note, parked_short, delivered, parked_waits(name), next_try(time, age), try_one(number), try_of(number, all), try_head,
        answer_head, nearest(pattern), last_answer(number), first_bytes(number), no_answer, no_request, empty_body, emitted, later, due_at(time), story, nothing_sent_note,
        unrouted_note, waiting_note, retry_failed, retry_run, nothing_failed, copy_curl, replay_says, replay_confirm,
        replayed(time), retried(time), cancelled_at(time), cancel_event, cancel_says, cancel_confirm, cancelled_parts(number, time), cancelled_one(time),
        cancelled_none(time), all_cancelled_note, since_start, clock, only_problems, round(number), more_parts,
        diff, diff_of(name), diff_same, diff_none, lines_unchanged(number), fixture, shown_of(shown, all), shown_in_part(all), not_text(size), from,
    }

    /// The first page.
    now: Now {
        retry_run, retry_runs(number), retry_began(time),
        hour, day, week, span, accepted, accepted_rate, latency_median, first_try, latency, waiting, waiting_none, webhooks, table, delivered, failed_tries, per(unit), accepted_say(number), first_try_say(again, all), latency_say(p99), waiting_say(age), say_bar(time, all, failed),
        title, needs_you, needs_changed(number), needs_solved, nothing, nothing_why, parked(number), parked_over(number), parked_one, failing_since(time),
        next_try(time), waiting_here(number), all_of(number), disabled_gone,
        disabled_failing, not_loaded, live, all, and_more(number), first_title, first_why, step_runs, step_runs_what(store, number),
        step_where, step_where_what, step_where_none, step_send, step_send_what, step_watch, step_watch_what,
    }

    /// The pages of sources.
    sources: Sources {
        title, why, connect, connect_short, connect_why, source, sender, accepted, refused, last, none, none_why, verified, anyone,
        waiting, all_refused, by_hmac, by_password, by_bearer, by_token, by_nothing, last_at(time), counts(accepted, refused, duplicates),
        address, address_hint, address_hidden, address_rotated(time), requests, only_refused(number), waiting_line, none_refused, what,
        from, all_events, one_accepted, one_refused, why_missing, why_malformed, why_timestamp, why_mismatch, why_address, why_method,
        why_content_type, why_body, why_rate, why_depth, why_id, rules, verified_by, nothing_proves, signed_text, signed_time,
        tolerance, type_from, prefix, no_prefix, known_by, may_come_from, anywhere, methods, anything, content_types, at_most, answer,
        rotate_secret, rotate_address, delete, delete_says, delete_confirm, name, name_hint, label, label_hint, secret, secret_hint,
        secret_theirs, header, header_hint, prefix_hint, create, cancel, what_verified, once_title, once_why, once_next, to_source, edit_why,
        type_from_hint, known_by_hint, allow_hint, methods_hint, content_types_hint, rate_hint,
    }

    /// The page of a search without a result.
    search: Search {
        title, nothing, nothing_why,
    }

    /// Plugins and their versions.
    plugins: Plugins {
        none, none_why, plugin, on, runs_in_day, new_run, new_runs(number), failed, waiting, waits, new_why, upload_short, upload, upload_plugin,
        upload_version, file_of_plugin, file_of_version, upload_says, upload_says_version, name_hint, serve_at_once,
        uploaded(size, time), is_candidate, same_manifest, description, overview, runs, log, limits, parts, enable, disable,
        disable_says, disable_confirm, roll_back, roll_back_says, roll_back_confirm, roll_back_to, promote, promote_now,
        promote_says, promote_confirm, discard, discard_says, discard_confirm, discarded, remove, remove_says, remove_confirm, remove_force, not_changed, not_loaded,
        held_title(number), held_cure, see_runs, parked_says(number), candidate_says, compare, serves_now, time, memory,
        not_done, and_waiting(number), runs_failed(number), of_newest(number), or_more(number), versions, version, kept, by,
        of_file, what_it_is, runs_on, may, may_what, may_not, may_not_what, its_version, file, event, asked,
        all_runs, no_runs, no_runs_why, no_runs_of_state, retry_parked, level, all_levels,
        contains, no_lines, no_lines_why, log_says(number), no_settings, new_name, new_value, unset, save, save_says,
        required, default, revisions, no_revisions, number, by_whom, begin_with, state_size(keys, bytes, max), key, expires,
        never, no_state, no_state_why, more_keys, delete_value, clear_state, clear_state_says, clear_state_confirm(number),
        limits_says,
    }

    /// Comparing versions of a plugin.
    compare: Compare {
        title, against(serving, candidate), nothing_sent, running, follows, cancelled, all_same, differ_word, no_candidate,
        no_candidate_why, candidate, which, of_the_past, of_now, last, share, any_time, mask, start, stop,
        compared_so_far(done, all), followed_so_far(done), earlier, versions, compared, what_differs, gate, side_by_side,
        gate_compared, gate_failures, gate_targets, gate_time, met, not_met, not_met_says, first_ends, not_stored,
        needs_admin, nothing_compared, nothing_compared_why, same, of_compared(number), differ, in_ways(number),
        new_failures, and_fewer(number), time, was(time), not_repeatable(number), current_state(number), skipped(number),
        runs(number), samples, time_p50, memory_p50, memory,
    }

    /// What the settings in force mean.
    in_force: InForce {
        value, setting, from, default, body_bytes, body_time, connections, head_time, idle_time, backlog, store_wait,
        subscribe_rate, plugin_bytes, deadline, memory, output, webhooks, events, state, state_keys, log_lines, quarantine,
        versions, versions_bytes, threads, slow_threads, disable_after, delivered, dead, unrouted, audit, size, dedupe,
    }

    /// Keys, audit trail, nodes.
    settings: Settings {
        keys, audit, nodes, name, role, ends, last_used, never, never_used, this_session, yours, own_key, revoke, revoke_confirm,
        expired, expires_soon, good, new_key, name_hint, it_may, may_read, may_publish, may_subscribe, may_metrics, may_operate,
        may_admin, good_for, ever, month, quarter, year, create_key, shown_once, copy_now, key, any_key, action, any_action, when,
        target, no_entry, no_entry_why, audit_note, one_engine, one_engine_why, node, does, address, engine, holds, answers, silent,
        alive, not_loaded, loaded,
        limits, jobs, master_key, master_key_says, rekey, rekey_confirm, rekeyed, health, takes_events, takes_no_events,
        in_hand, disk, disk_free(free, all), kept_for, limits_in_force, limits_say, store, store_full(percent),
        store_full_cure, of_size(size), no_limit, free_of(size), other_machine, kind_of_store, of_node, no_jobs,
        no_jobs_why, comparisons, job, job_runs, job_stopped, job_done, progress, failed, begun, retries_deliveries,
        retries_runs, replays_events, replay_many, replay_says, since, replay_button, retry_runs, retry_runs_say,
        every_plugin, retry_runs_button, retry_deliveries,
    }

    /// Keyboard shortcuts.
    keys: Keys {
        title, why, on, off, search, pages, rows, open, back, retry, replay, copy, select, clock, this,
    }

    /// The list of endpoints.
    endpoints: Endpoints {
        day, first_try, waiting, over(number),
        title, filter, new, all, endpoint, url, gets, by_key(key), from_plugins, before, more, none_yet, none_yet_why,
        none_match, none_match_why,
    }

    /// The page of one endpoint.
    endpoint: Endpoint {
        first_try_in_day(share), week, week_total(delivered, failed), week_table, per_bucket, delivered, failed_tries,
        bar_says(time, all, failed),
        for_so_long(span), waiting(number), waiting_oldest(number, age), waiting_many, paused_at(time), disabled_at(time), changed_at(time), resumed_at(time), pause,
        resume, enable, edit, more, rotate, disable, delete, disabled_by_hand, disabled_effect, paused_effect,
        breaker_open(failures, time), breaker_probing(failures), breaker_closed, last_answer, probe, none_yet, none_yet_why,
        test, test_says, send_test, policy, plugin, body, signature, public_key, timeout, tries, tries_in(number, span), rate,
        no_rate, at_once, at_once_now(number), order, order_subject, order_endpoint, order_none, breaker, breaker_never,
        breaker_after(number, wait, most), headers, certificate, no_signature, test_took(took, time), keep, rotate_says,
        rotate_says_one, grace, grace_hint, grace_week, grace_none, delete_other_name, delete_says, delete_in_use, delete_force,
        delete_type,
    }

    /// The form of an endpoint.
    webhook: Webhook {
        envelope_data, envelope_cloudevents, envelope_standard, new_title, edit_title, what_it_is, not_saved, title, title_hint,
        name, name_hint, name_fixed, url, url_hint, events, events_hint, seen, list, list_hint, all_lists, triggered_by,
        by_contact, by_admin, by_api, by_system, triggered_hint, format, format_form, more, save, create, create_and_test,
        envelope, signature, signature_hint, token_header, token_header_hint, headers, headers_hint, conditions,
        conditions_hint, plugin, plugin_hint, timeout, timeout_hint, schedule, schedule_hint, concurrency, rate, rate_hint,
        order, order_none, order_endpoint, order_subject, failures, failures_hint, wait, wait_max, preview, receives, receives_none,
        not_text, made_from(event_type), would_have(number, all),
    }

    /// A secret that is shown once.
    once: Once {
        already, already_title, already_why, is_ready(title), is_rotated(title), created, rotated, open_endpoint, its_secret,
        copy_now, kept_encrypted, verify, verify_other(signature), verify_says, see_it_work, not_tested, step_signed,
        step_signed_how, step_sent, step_nowhere, step_nowhere_why, by_hand,
    }

    /// The list of deliveries.
    deliveries: Deliveries {
        title, retry_dead, new_delivery, new_deliveries(number), any_endpoint, endpoint, event, caption, all, last_try, answer, tries,
        first_try, tries_of(number), is_paused, none_yet, none_yet_why, none_dead, none_match, none_match_why,
    }

    /// Acting on selected rows.
    selected: Selected {
        selected, up_to_date, select(id), replay_selected, replay_many(number), retry_selected, retry_many(number), title_replay(number),
        title_replay_one, title_retry(number), title_retry_one, button_replay(number), button_replay_one, none, none_why,
        done(number, time), refused(number),
    }

    /// Retrying many deliveries.
    retry_many: RetryMany {
        many, title_to(number, state, name), title(number, state), none, none_why, says, which, pace, but, continues,
        title_to_one(state, name), title_one(state), button(number), button_one, enable_first, pace_rate(rate, span), pace_free(number), but_disabled, but_paused, but_failing(span),
        running, cancelled, done, again, done_of(done, total), done_so_far(done), sent_again, show_retrying, not_sent,
        not_sent_why, show, may_close, stop, runs_done_of(done, total), runs_done_so_far(done), ran_again, not_ran, not_ran_why,
        replaying, replay_cancelled, replay_done, events_done_of(done, total), events_done_so_far(done), replayed, not_replayed,
        not_replayed_why,
    }
}

#[cfg(test)]
pub mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Returns the source files of the dashboard.
    pub fn sources() -> Vec<(String, String)> {
        fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
            for entry in fs::read_dir(folder).expect("the folder exists") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    collect(&path, found);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    found.push((path.display().to_string(), fs::read_to_string(&path).expect("a source file")));
                }
            }
        }
        let mut found = Vec::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui"), &mut found);
        found
    }

    #[test]
    fn every_text_is_used() {
        let code: String = sources().into_iter().filter(|(path, _)| !path.contains("/texts/")).map(|(_, text)| text).collect();
        let is_named = |name: &str| {
            code.match_indices(&format!(".{name}")).any(|(at, found)| {
                !code[at + found.len()..].starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
            })
        };
        let unused: Vec<String> = NAMES
            .iter()
            .flat_map(|(section, names)| names.iter().map(move |name| (section, name)))
            .filter(|(_, name)| !is_named(name))
            .map(|(section, name)| format!("{section}.{name}"))
            .collect();
        assert!(unused.is_empty(), "no page uses these texts: {unused:?}");
    }

    #[test]
    fn languages_are_chosen_by_the_browser() {
        for (header, expected) in [
            ("it-IT,it;q=0.9,en;q=0.8", Lang::It),
            ("de,it;q=0.5", Lang::It),
            ("fr", Lang::En),
            ("", Lang::En),
            ("en-US,it", Lang::En),
        ] {
            assert_eq!(Lang::accepted(header), expected, "{header}");
        }
    }
}
