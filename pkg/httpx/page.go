package httpx

import (
	"time"

	"github.com/google/uuid"
)

// Position is the place of the last item of a page in the list's order.
type Position struct {
	Time time.Time
	ID   uuid.UUID
}

// Page says which part of a list is asked for.
type Page struct {
	Number, Limit int
	After         *Position
}

// Offset is the number of items to skip; 0 where After says where to go on.
func (p Page) Offset() int64 { return 0 }

// List is the body of every list response.
type List[T any] struct {
	Data       []T    `json:"data"`
	Total      int64  `json:"total"`
	Page       int    `json:"page"`
	Limit      int    `json:"limit"`
	NextCursor string `json:"nextCursor,omitempty"`
}

// NewList makes the response; next is the position of the last item if there is a next page, else nil.
func NewList[T any](items []T, total int64, page Page, next *Position) List[T] { return List[T]{} }
