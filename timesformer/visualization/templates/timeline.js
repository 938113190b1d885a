"use strict";
// A player and a strip over time for each video: clicks seek, and a line shows the current time.
for (const section of document.querySelectorAll("section.timeline")) {
  const seconds = Number(section.dataset.seconds), strip = section.querySelector(".strip"), now = section.querySelector(".now");
  const player = section.querySelector("video"), still = section.querySelector(".still"), cursor = section.querySelector(".cursor");
  const segments = [...section.querySelectorAll(".segments button")];
  const thumbnails = [...section.querySelectorAll(".thumbnails button")];
  let works = player !== null;

  const clock = time => {
    const tenths = Math.floor(time * 10 + 1e-6), pad = part => String(part).padStart(2, "0");
    const minutes = Math.floor(tenths / 600), rest = `${pad(Math.floor(tenths / 10) % 60)}.${tenths % 10}`;
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${rest}`;
  };

  function show(time) {
    cursor.hidden = false;
    cursor.style.left = `${100 * Math.min(time / seconds, 1)}%`;
    const near = time + 1e-3; // players round the time down
    const current = segments.find(segment => segment.dataset.time <= near && near < segment.dataset.until);
    segments.forEach(segment => segment.classList.toggle("current", segment === current));
    const label = document.createElement("small");
    label.textContent = clock(time);
    now.replaceChildren(current ? current.dataset.name + " " : "", label);
    if (works || !thumbnails.length) return;
    const picture = thumbnails.reduce((a, b) => (Math.abs(b.dataset.time - time) <= Math.abs(a.dataset.time - time) ? b : a));
    still.src = picture.firstElementChild.src;
  }

  function seek(time) {
    if (works) player.currentTime = time;
    show(time);
  }

  // Without a player, the thumbnail closest to the chosen time is shown.
  function giveUp() {
    if (!works) return;
    works = false;
    player.hidden = true;
    still.hidden = !thumbnails.length;
    const problem = document.createElement("p");
    problem.className = "hint problem";
    problem.textContent = "The browser cannot play the video. If it was moved, put it back next to this page: " + decodeURI(player.getAttribute("src").slice(0, 200));
    section.querySelector(".stage").before(problem);
    show(0);
  }

  if (player) {
    for (const event of ["timeupdate", "seeking"]) player.addEventListener(event, () => show(player.currentTime));
    player.addEventListener("error", giveUp);
    const follow = () => {
      show(player.currentTime);
      if (!player.paused) requestAnimationFrame(follow);
    };
    player.addEventListener("play", follow);
    if (player.error) giveUp();
  }
  still.hidden = works || !thumbnails.length;
  show(0);

  strip.addEventListener("click", event => {
    const button = event.target.closest("[data-time]"), box = strip.getBoundingClientRect();
    seek(button ? Number(button.dataset.time) : Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * seconds);
  });
  const table = section.querySelector("table");
  if (table) table.addEventListener("click", event => {
    const row = event.target.closest("tbody [data-time]");
    if (row) seek(Number(row.dataset.time));
  });
  strip.addEventListener("pointermove", event => {
    const button = event.target.closest("[data-tip]"), tip = document.getElementById("tip");
    tip.hidden = !button;
    if (!button) return;
    tip.textContent = button.dataset.tip;
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 6)) + "px";
    tip.style.top = event.clientY + 16 + "px";
  });
  strip.addEventListener("pointerleave", () => (document.getElementById("tip").hidden = true));
}
