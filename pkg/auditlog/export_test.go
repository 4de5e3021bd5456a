package auditlog

// Canonicalize is Leaf without its shortcut.
func Canonicalize(payload []byte) ([]byte, error) { return canonicalize(payload) }
