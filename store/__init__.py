"""What lasts: records, database, facts, evidence, queue, ledger, versions."""
