package httpx

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"time"

	"github.com/google/uuid"
)

const (
	maxPage      = 1_000_000_000
	maxLimit     = 100
	defaultLimit = 20

	cursorVersion = 1
	// cursorEstimated is the version of a cursor whose total is an estimate.
	cursorEstimated = 2
	// cursorSize is version, time in microseconds, id, page number and total, in bytes.
	cursorSize = 1 + 8 + 16 + 4 + 8
)

// Position is the place of an item in a list's order, newest first: its time
// (to the microsecond, as Postgres keeps it) and its id as tie-break.
type Position struct {
	Time time.Time
	ID   uuid.UUID
}

// Page says which part of a list is asked for.
type Page struct {
	// Number is the page, from 1 to 1e9; with a cursor it is for show only.
	Number int
	// Limit is the page's size, 1 to 100.
	Limit int
	// After is the last item of the page before, where a cursor was given; the
	// list goes on after it and Offset is 0.
	After *Position
	// Total is what the page before said, where a cursor was given: a store for
	// which counting takes long may repeat it.
	Total int64
	// TotalIsEstimate says so of Total; with a cursor it is what the page before said.
	TotalIsEstimate bool
}

// Offset is the number of items to skip; 0 where After says where to go on.
func (p Page) Offset() int64 {
	if p.After != nil || p.Number < 1 {
		return 0
	}
	return int64(p.Number-1) * int64(p.Limit)
}

// List is the body of a list response.
type List[T any] struct {
	Data  []T   `json:"data"`
	Total int64 `json:"total"`
	// TotalIsEstimate is there, and true, where counting would have taken too long.
	TotalIsEstimate bool `json:"totalIsEstimate,omitempty"`
	Page            int  `json:"page"`
	Limit           int  `json:"limit"`
	// NextCursor asks for the page after this one; absent on the last.
	NextCursor string `json:"nextCursor,omitempty"`
}

// NewList makes a list response. next is the position of the last item if
// more items follow it (fetch one more than Limit to know), else nil. Whether
// total is an estimate is for page to say.
func NewList[T any](items []T, total int64, page Page, next *Position) List[T] {
	if items == nil {
		items = []T{} // null is no list
	}
	list := List[T]{Data: items, Total: total, TotalIsEstimate: page.TotalIsEstimate, Page: page.Number, Limit: page.Limit}
	if next != nil && page.Number < maxPage {
		page.Number, page.Total = page.Number+1, total
		list.NextCursor = encodeCursor(page, *next)
	}
	return list
}

// encodeCursor makes an opaque token. It grants nothing, so it is not signed:
// a made-up one is just another place in a list the caller may read anyway.
func encodeCursor(page Page, p Position) string {
	b := make([]byte, 0, cursorSize)
	version := byte(cursorVersion)
	if page.TotalIsEstimate {
		version = cursorEstimated
	}
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Time.UnixMicro()))
	b = append(b, p.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(page.Number)) //nolint:gosec // G115: a page is at most 1e9
	b = binary.BigEndian.AppendUint64(b, uint64(page.Total))  //nolint:gosec // G115: a count is not negative
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor gives the page that the cursor asks for, without its limit.
func decodeCursor(token string) (page Page, ok bool) {
	// The decoder skips line breaks; the length does not.
	if len(token) != base64.RawURLEncoding.EncodedLen(cursorSize) {
		return Page{}, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != cursorSize || (b[0] != cursorVersion && b[0] != cursorEstimated) {
		return Page{}, false
	}
	micro := binary.BigEndian.Uint64(b[1:])
	number := binary.BigEndian.Uint32(b[25:])
	total := binary.BigEndian.Uint64(b[29:])
	if micro > math.MaxInt64 || number < 2 || number > maxPage || total > math.MaxInt64 {
		return Page{}, false
	}
	after := Position{Time: time.UnixMicro(int64(micro)).UTC(), ID: uuid.UUID(b[9:25])}
	// Later years have five digits, which neither RFC 3339 nor Postgres takes.
	if after.Time.Year() > 9999 {
		return Page{}, false
	}
	return Page{Number: int(number), After: &after, Total: int64(total), TotalIsEstimate: b[0] == cursorEstimated}, true
}
