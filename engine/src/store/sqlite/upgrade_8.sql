-- From layout 7 to layout 8. The process keeps its leases in memory (leases.rs), so it finds the expired ones without an index.

DROP INDEX event_queue_leased;
DROP INDEX run_queue_leased;
DROP INDEX live_leased;
