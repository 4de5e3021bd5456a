// Package timeid reads and writes the time in ids of version 7 (RFC 9562 §5.7), whose first 48 bits are milliseconds
// since 1970. It must not make ids: who needs one has it injected.
package timeid

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// At is a fresh id with the time at, which is not before 1970, instead of its own. An id of another version stays as it is.
func At(fresh uuid.UUID, at time.Time) uuid.UUID {
	if fresh.Version() != 7 {
		return fresh
	}
	var octets [8]byte
	binary.BigEndian.PutUint64(octets[:], uint64(at.UnixMilli())) // #nosec G115 -- after 1970
	copy(fresh[:6], octets[2:])
	return fresh
}

// Of is the time in an id, in UTC and whole milliseconds. Ids of other versions have none.
func Of(id uuid.UUID) (at time.Time, has bool) {
	if id.Version() != 7 {
		return time.Time{}, false
	}
	var octets [8]byte
	copy(octets[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(octets[:]))).UTC(), true // #nosec G115 -- 48 bits
}
