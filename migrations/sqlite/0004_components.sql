-- Components that are stored before they decide, signatures, and a component that is asked beside the one that decides.
-- Twin: migrations/postgres/0004_components.sql.

-- Who signed the component, as the digest of the public key, and the version that the signature is about. Both or neither.
ALTER TABLE components ADD COLUMN signed_by TEXT;
ALTER TABLE components ADD COLUMN signed_version INTEGER CHECK ((signed_by IS NULL) = (signed_version IS NULL));

-- Each row is one choice, the last row is what is asked beside the policy in force; without a digest it is nothing.
CREATE TABLE component_shadows (
    choice    INTEGER NOT NULL PRIMARY KEY CHECK (choice > 0),
    digest    TEXT    REFERENCES components (digest),
    chosen_at INTEGER NOT NULL,
    chosen_by TEXT    NOT NULL
) STRICT;

CREATE TRIGGER component_shadows_in_order BEFORE INSERT ON component_shadows
WHEN NEW.choice <> (SELECT coalesce(max(choice), 0) + 1 FROM component_shadows)
BEGIN SELECT RAISE(ABORT, 'component_shadows.choice has no gap and is never replaced'); END;
CREATE TRIGGER component_shadows_stay BEFORE DELETE ON component_shadows
BEGIN SELECT RAISE(ABORT, 'component_shadows are append-only'); END;
CREATE TRIGGER component_shadows_fixed BEFORE UPDATE ON component_shadows
BEGIN SELECT RAISE(ABORT, 'component_shadows are append-only'); END;
