package outbox

// What tests look at.
const BatchSize = batchSize

// The statements of an outbox.
func ClaimOrderedSQL(o *Outbox) string { return o.sql.claimOrdered }
func ReleaseSQL(o *Outbox) string      { return o.sql.release }
func PostponeSQL(o *Outbox) string     { return o.sql.postpone }
