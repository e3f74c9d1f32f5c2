"""Check a journal's ledger: what every meter counted is where it went, to the nanojoule."""

from __future__ import annotations

from pathlib import Path

from daemon.audit import Finding, named
from daemon.journal_reader import reading
from daemon.journal_schema import LOST, MAINTENANCE
from daemon.journal_sums import FINAL, PROVISIONAL

RANGES = """
SELECT session, name, began, metered_nanojoules, metered_nanojoules - dynamic_nanojoules - static_nanojoules
  - idle_nanojoules - background_nanojoules - unattributed_nanojoules - maintenance_nanojoules AS missing
FROM ledger JOIN meters ON id = meter WHERE missing != 0
"""
HOLES = """
SELECT session, name, before, began FROM (
  SELECT meter, began, LAG(ended) OVER (PARTITION BY meter ORDER BY began) AS before FROM ledger
) JOIN meters ON id = meter WHERE before IS NOT NULL AND before != began
"""
# By session and account: what requests have of the ledger's closed ranges, and what those that are final were told.
GIVEN = """
SELECT session, account, SUM(given) - SUM(pending) FROM meters JOIN (
  SELECT meter, SUM(dynamic_nanojoules + static_nanojoules) AS given FROM ledger GROUP BY meter
) AS sums ON sums.meter = id JOIN (
  SELECT meter, pending_nanojoules AS pending, MAX(began) FROM ledger GROUP BY meter
) AS lasts ON lasts.meter = id GROUP BY 1, 2
"""
# What a power-up or a lost request is charged comes from no meter.
TOLD = f"""
SELECT session, account, SUM(nanojoules) FROM (
  SELECT session, device, dynamic_nanojoules + static_nanojoules AS nanojoules
  FROM requests JOIN points ON points.id = point
  WHERE energy_state = '{FINAL}' AND status NOT IN ('{LOST}', '{MAINTENANCE}')
  UNION ALL
  SELECT session, device, dynamic_nanojoules + static_nanojoules
  FROM attempts JOIN points ON points.id = point WHERE energy_state = '{FINAL}'
  UNION ALL
  SELECT session, device, told_nanojoules FROM seals
) JOIN account_devices USING (session, device) GROUP BY 1, 2
"""
SUMS = """
SELECT COUNT(*), SUM(metered_nanojoules), SUM(dynamic_nanojoules), SUM(static_nanojoules), SUM(idle_nanojoules),
  SUM(background_nanojoules), SUM(unattributed_nanojoules), SUM(maintenance_nanojoules) FROM ledger
"""
NAMES = ("ranges", "metered", "dynamic", "static", "idle", "background", "unattributed", "maintenance")


def check_identity(path: Path) -> Finding:
    """Check a journal's store: for every meter and all its closed ranges

        requests (dynamic + static) + idle + background + unattributed + maintenance = metered

    and for every account of the frontier that the final figures of its requests, failed attempts among them, are what
    its meters gave to requests, but for those that have no final figure yet. Raises `NoJournal`.
    """  # noqa: D415 (the sentence goes on after the formula)
    with reading(path) as database:
        violations = named(
            f"session {session}: {missing} of {metered} nJ that {meter} counted from {began} on are missing"
            for session, meter, began, metered, missing in database.execute(RANGES)
        )
        violations += named(
            f"session {session}: {meter} tells nothing from {before} to {began}"
            for session, meter, before, began in database.execute(HOLES)
        )
        given = {(session, account): nanojoules for session, account, nanojoules in database.execute(GIVEN)}
        told = {(session, account): nanojoules for session, account, nanojoules in database.execute(TOLD)}
        violations += named(
            f"session {session}, account {account}: requests were told {told.get((session, account), 0)} nJ "
            f"of the {given.get((session, account), 0)} nJ that are theirs"
            for session, account in sorted(given.keys() | told.keys())
            if given.get((session, account), 0) != told.get((session, account), 0)
        )
        figures = dict(zip(NAMES, (each or 0 for each in database.execute(SUMS).fetchone()), strict=True))
        query = f"SELECT COUNT(*) FROM requests WHERE energy_state = '{PROVISIONAL}'"
        (provisional,) = database.execute(query).fetchone()
    labels = {name if name == "ranges" else f"{name}_nanojoules": value for name, value in figures.items()}
    return Finding(
        "I3",
        "what requests got and what is left add up to what the meters counted",
        {"accounts": len(given), **labels, "not_final": provisional},
        violations,
    )
