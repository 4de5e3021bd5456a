package httpx

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/sentryagent/agentidp/pkg/paging"
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

// Page is a part of a list as a client asks for it, by number or by the cursor of the page before.
type Page struct {
	paging.Page

	// Number is the page, from 1 to 1e9; with a cursor it is for show only.
	Number int
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

// NewList makes the response to a request for a page of a listing, whose items are shown as wire makes them.
func NewList[T, W any](page Page, listing paging.Listing[T], wire func(T) W) List[W] {
	list := List[W]{
		Data:            make([]W, len(listing.Items)), // null is no list
		Total:           listing.Total.Items,
		TotalIsEstimate: listing.Total.Estimate,
		Page:            page.Number,
		Limit:           page.Limit,
	}
	for i, item := range listing.Items {
		list.Data[i] = wire(item)
	}
	if listing.Next != nil && page.Number < maxPage {
		list.NextCursor = encodeCursor(page.Number+1, listing.Total, *listing.Next)
	}
	return list
}

// encodeCursor makes an opaque token. It grants nothing, so it is not signed:
// a made-up one is just another place in a list the caller may read anyway.
func encodeCursor(number int, total paging.Total, after paging.Position) string {
	b := make([]byte, 0, cursorSize)
	version := byte(cursorVersion)
	if total.Estimate {
		version = cursorEstimated
	}
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(after.Time.UnixMicro()))
	b = append(b, after.ID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(number))      //nolint:gosec // G115: a page is at most 1e9
	b = binary.BigEndian.AppendUint64(b, uint64(total.Items)) //nolint:gosec // G115: a count is not negative
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
	after := paging.Position{Time: time.UnixMicro(int64(micro)).UTC(), ID: uuid.UUID(b[9:25])}
	// Later years have five digits, which neither RFC 3339 nor Postgres takes.
	if after.Time.Year() > 9999 {
		return Page{}, false
	}
	page.Number, page.After = int(number), &after
	page.Total = paging.Total{Items: int64(total), Estimate: b[0] == cursorEstimated}
	return page, true
}
