package agentidp

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

// ListOptions say which part of a list is wanted.
type ListOptions struct {
	// Limit is the number of items per page, 1 to 100; 0 leaves it to the provider.
	Limit int
	// Page is the number of the page, from 1; 0 means the first. Not together with
	// Cursor.
	Page int
	// Cursor is Page.NextCursor of the page before.
	Cursor string
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T `json:"data"`
	// Total is how many items match in all.
	Total int64 `json:"total"`
	// TotalIsEstimate says that counting them would have taken the provider too long.
	TotalIsEstimate bool `json:"totalIsEstimate"`
	Number          int  `json:"page"`
	Limit           int  `json:"limit"`
	// NextCursor is where the next page begins; empty on the last one.
	NextCursor string `json:"nextCursor"`
}

// pageLimit is the largest page the provider gives, for walks.
const pageLimit = 100

// walk goes through the pages of a list by their cursors.
func walk[T any](page func(ListOptions) (Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		options := ListOptions{Limit: pageLimit}
		for {
			found, err := page(options)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range found.Items {
				if !yield(item, nil) {
					return
				}
			}
			if found.NextCursor == "" {
				return
			}
			options.Cursor = found.NextCursor
		}
	}
}

func list[T any](ctx context.Context, c *Client, path string, query url.Values, options ListOptions) (Page[T], error) {
	if options.Limit != 0 {
		query.Set("limit", strconv.Itoa(options.Limit))
	}
	if options.Page != 0 {
		query.Set("page", strconv.Itoa(options.Page))
	}
	if options.Cursor != "" {
		query.Set("cursor", options.Cursor)
	}
	var page Page[T]
	_, err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, repeatable: true, out: &page})
	return page, err
}

// restrict makes query parameters of those values that are not empty.
func restrict(parameters map[string]string) url.Values {
	query := url.Values{}
	for name, value := range parameters {
		if value != "" {
			query.Set(name, value)
		}
	}
	return query
}
