"use strict";
(() => {
  // Columns are sorted by buttons in their heads: up, down, and back to the order in which they came.
  const collator = new Intl.Collator("en", { numeric: true });
  const asNumber = (text) => {
    const found = text.trim().match(/^[<>]?\s*([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)/i);
    return found ? Number(found[1].replaceAll(",", "")) : NaN;
  };
  const compare = (a, b, numbers) => {
    if (!numbers) return collator.compare(a, b);
    return asNumber(a) - asNumber(b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const order = { none: "ascending", ascending: "descending", descending: "none" }[before];
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        const numbers = head.classList.contains("n");
        const text = (row) => row.cells[column].textContent;
        // What is no number stands last in either order.
        const lacks = (row) => (numbers ? Number.isNaN(asNumber(text(row))) : text(row).trim() === "-");
        const sign = order === "descending" ? -1 : 1;
        const rows = [...original];
        if (order !== "none")
          rows.sort((a, b) => lacks(a) - lacks(b) || (lacks(a) ? 0 : sign * compare(text(a), text(b), numbers)));
        body.append(...rows);
      });
    });
  }

  // Values of points: at the pointer, and by the arrow keys once a picture has the focus.
  const tip = document.getElementById("tip");
  const REACH = 22;
  let marked = null;
  const centre = (point) => {
    const box = point.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const hide = () => {
    tip.hidden = true;
    if (marked) marked.classList.remove("at");
    marked = null;
  };
  const show = (point, text) => {
    if (marked !== point) {
      if (marked) marked.classList.remove("at");
      marked = point;
      point.classList.add("at");
      tip.textContent = text;
      tip.hidden = false;
    }
    const [x, y] = centre(point);
    const left = Math.max(4, Math.min(x - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 4));
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : y + 14}px`;
  };
  for (const picture of document.querySelectorAll(".chart svg")) {
    const points = [...picture.querySelectorAll(".p")].map((point) => {
      const title = point.querySelector("title");
      const text = title.textContent;
      title.remove(); // else the browser shows it, too
      return { point, text, row: point.parentNode };
    });
    let at = -1;
    const nearest = (event) => {
      let best = null;
      let least = REACH;
      for (const each of points) {
        const [x, y] = centre(each.point);
        const box = each.point.matches("rect") && each.point.getBoundingClientRect();
        const inside =
          box && event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
        const distance = inside ? REACH - 1 : box ? Infinity : Math.hypot(event.clientX - x, event.clientY - y);
        if (distance < least) [best, least] = [each, distance];
      }
      return best;
    };
    const follow = (event) => {
      const found = nearest(event);
      if (found) show(found.point, found.text);
      else hide();
    };
    picture.addEventListener("pointermove", follow);
    picture.addEventListener("pointerdown", follow);
    picture.addEventListener("pointerleave", hide);
    picture.addEventListener("blur", hide);
    picture.addEventListener("keydown", (event) => {
      const rows = [...new Set(points.map((each) => each.row))];
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: 0, End: 0 }[event.key];
      if (event.key === "Escape") hide();
      if (step === undefined || !points.length) return;
      event.preventDefault();
      if (at < 0 || event.key === "Home") at = 0;
      else if (event.key === "End") at = points.length - 1;
      else if (event.key === "ArrowRight" || event.key === "ArrowLeft") at = (at + step + points.length) % points.length;
      else {
        const row = points[at].row;
        const next = rows[(rows.indexOf(row) + step + rows.length) % rows.length];
        const place = at - points.findIndex((each) => each.row === row);
        const those = points.filter((each) => each.row === next);
        at = points.indexOf(those[Math.min(place, those.length - 1)]);
      }
      show(points[at].point, points[at].text);
    });
  }
  addEventListener("scroll", hide, { passive: true });

  // Paper shows what is folded away, but what only repeats or explains.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open]):not(.aside)")];
    for (const each of folded) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of folded) each.open = false;
  });
})();
