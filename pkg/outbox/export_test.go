package outbox

// What tests look at.
const BatchSize = batchSize

// ClaimOrderedSQL is the statement that claims lifecycle messages.
func ClaimOrderedSQL(o *Outbox) string { return o.sql.claimOrdered }
